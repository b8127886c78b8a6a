"""From a file forward: the corpora that it went into, the runs on these, and their models."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from manta.config.credentials import without_credentials
from manta.config.errors import CorpusError, RunError
from manta.corpus.leftovers import checksum
from manta.corpus.lineage.origin import Origin
from manta.corpus.manifest import Manifest
from manta.record.audit_log import EXPORTED, read_log
from manta.record.run_config import recorded_config
from manta.record.run_state import read_state
from manta.show.lineage.lineage_graph import LineageGraph, LineageNode
from manta.show.lineage.trace import corpus_facts, run_facts
from manta.storage.place import Place, place_of, tree
from manta.storage.run_folder import RUN

SHA256 = re.compile(r"[0-9a-f]{64}")


def runs_in(storage: str) -> list[Place]:
    """All runs below a folder or URL, also those of sweeps, by name.

    Raises:
        RunError: if there is none.
    """
    place = place_of(storage)
    found: list[Place] = []
    if isinstance(place, Path):
        for here, folders, names in os.walk(place.expanduser()):
            if RUN in names:
                found.append(Path(here))
                folders.clear()
            folders[:] = [name for name in folders if not name.startswith(".")]
    else:
        found = [
            place / name.rpartition("/")[0] for name in tree(place) if name.endswith(f"/{RUN}")
        ]
    if not found:
        raise RunError(f"{storage}: no run here or below; give the folder that runs are stored in")
    return sorted(found, key=str)


def uses_of(file: str, storage: str) -> LineageGraph:
    """What a file went into, among the runs below a folder.

    Args:
        file: the file, which is compared by its content; or the SHA-256 of the content.
        storage: folder or URL with runs.

    Raises:
        RunError: if there is neither such a file nor a run.
    """
    graph = LineageGraph(f"file {_sha256_of(file)}")
    sha256 = graph.root.partition(" ")[2]
    graph.add(LineageNode(graph.root, "file", file, {"sha256": sha256}))
    corpora = _Corpora(graph, sha256)
    for run in runs_in(storage):
        state, config = read_state(run), recorded_config(run)
        corpus = corpora.with_file(config.corpus, state.corpus_fingerprint)
        if corpus is not None:
            key = f"run {run}"
            graph.add(LineageNode(key, "run", str(run), run_facts(state, config)))
            graph.link(corpus, "was trained on by", key)
            for name, step in exports_of(run):
                model = f"model {name}"
                graph.add(LineageNode(model, "model", name, {"step": step}))
                graph.link(key, "was exported as", model)
    return graph


def exports_of(run: Place) -> Iterator[tuple[str, int | None]]:
    """Folders that a run's models were exported to, by its log, and their steps, if given."""
    for entry in read_log(run).entries:
        if entry.action == EXPORTED and "to" in entry.facts:
            yield str(entry.facts["to"]), entry.facts.get("step")


class _Corpora:
    """The corpora of runs, each looked at once."""

    def __init__(self, graph: LineageGraph, sha256: str):
        self._graph, self._sha256 = graph, sha256
        self._found: dict[tuple[str, str], str | None] = {}

    def with_file(self, folder: str, fingerprint: str) -> str | None:
        """The key of a corpus that the file went into; None of another one.

        A corpus that can't be looked at is in the graph, linked to nothing.
        """
        place = (folder, fingerprint)
        if place not in self._found:
            self._found[place] = self._look(*place)
        return self._found[place]

    def _look(self, folder: str, fingerprint: str) -> str | None:
        key, shown = f"corpus {fingerprint}", without_credentials(folder)
        try:
            manifest = Manifest.read(folder)
            origin = Origin.read(folder, manifest.fingerprint)
        except CorpusError as error:
            self._unknown(key, shown, str(error).partition(";")[0])
            return None
        if manifest.fingerprint != fingerprint:
            self._unknown(key, shown, "another corpus is there now")
            return None
        if origin is None:
            self._unknown(key, shown, "an older version of Manta recorded no files")
            return None
        rows = {s.name: f.rows for s, f in origin.files() if f.sha256 == self._sha256}
        if not rows:
            return None
        self._graph.add(LineageNode(key, "corpus", shown, corpus_facts(manifest)))
        for source, count in rows.items():
            self._graph.link(self._graph.root, f"{count:,} rows in source {source} of", key)
        return key

    def _unknown(self, key: str, folder: str, why: str) -> None:
        self._graph.add(LineageNode(key, "corpus", folder, {}, why))


def _sha256_of(file: str) -> str:
    if SHA256.fullmatch(file):
        return file
    try:
        return checksum(Path(file).expanduser())
    except OSError as error:
        raise RunError(
            f"{file}: can't be read: {error.strerror}; give a file, which is compared by its "
            "content, or the SHA-256 of the content"
        ) from None
