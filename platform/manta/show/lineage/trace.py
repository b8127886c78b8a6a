"""From a model, a run or a corpus back to the files that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manta.config import RunConfig
from manta.config.credentials import without_credentials
from manta.config.errors import CorpusError, RunError
from manta.config.model_names import named_models
from manta.corpus.lineage.origin import Origin, OriginSource, ParentCorpus
from manta.corpus.manifest import MANIFEST, Manifest
from manta.record.model_origin import ModelOrigin
from manta.record.run_config import recorded_config
from manta.record.run_state import Fork, RunState, read_state
from manta.show.lineage.lineage_graph import LineageGraph, LineageNode
from manta.storage.place import Place, place_of
from manta.storage.run_folder import EXPORTS, LINEAGE, RUN

RELATIONS = {"extends": "extends", "forgets": "leaves documents out of", "joins": "joins"}
BEGAN_WITH = {
    "model.pretrained": "began with the weights of",
    "objective.teacher": "learned from",
}


def trace(path: str) -> LineageGraph:
    """The lineage of what is in a folder or at a URL.

    Raises:
        RunError: if there is no run, no corpus, and no model that `manta export` wrote.
        CorpusError, RunError: if a file of it is damaged.
    """
    place = place_of(path)
    tracing = _Tracing()
    if (place / RUN).exists():
        root = tracing.run(place)
    elif (place / MANIFEST).exists():
        root = tracing.corpus(path)
    elif (place / LINEAGE).exists():
        root = tracing.model(place)
    else:
        raise RunError(
            f"{path}: no run (no {RUN}), no corpus (no {MANIFEST}) and no model that says where "
            f"it comes from (no {LINEAGE}, which `manta export` writes from version 0.2 on)"
        )
    return LineageGraph(root, tracing.graph.nodes, tracing.graph.links)


def corpus_facts(manifest: Manifest) -> dict[str, Any]:
    """What is said of a corpus: fingerprint, sizes, filters and what was left out."""
    facts: dict[str, Any] = {"fingerprint": manifest.fingerprint}
    for split in manifest.counts:
        documents = sum(one.documents for one in manifest.counts[split].values())
        facts[split] = {"documents": documents, "tokens": manifest.tokens_of(split)}
    facts["dropped"] = {reason: count for reason, count in manifest.dropped.items() if count}
    if manifest.filters:
        facts["filters"] = [
            {
                "name": one.name,
                "version": _version(manifest, one.name),
                "in": one.documents_in,
                "out": one.documents_out,
                "changed": one.changed,
            }
            for one in manifest.filters
        ]
    if manifest.tokenizer_sha256:
        facts["tokenizer"] = manifest.tokenizer_sha256
    return {**facts, "prepared by": f"manta {manifest.manta_version}"}


def _version(manifest: Manifest, name: str) -> int | None:
    """The version of a filter, by its settings in the manifest."""
    noted = manifest.config.get("filters", {}).get(name.partition(".")[0])
    if isinstance(noted, list):
        noted = noted[0] if noted else None
    return noted.get("version") if noted else None


def run_facts(state: RunState, config: RunConfig) -> dict[str, Any]:
    """What is said of a run."""
    facts: dict[str, Any] = {
        "status": state.status,
        "steps": state.totals.steps,
        "tokens": state.totals.tokens,
        "seed": config.run.seed,
        "corpus": state.corpus_fingerprint,
        "config": state.binding,
    }
    if state.ledger_digest:
        facts["ledger"] = state.ledger_digest
    if state.git:
        facts["code"] = state.git["commit"] + (" (changed)" if state.git["dirty"] else "")
    return {**facts, "created": state.created, "trained by": f"manta {state.manta_version}"}


class _Tracing:
    """A graph while it is made; each method returns the key of its node."""

    def __init__(self) -> None:
        self.graph = LineageGraph("")

    def model(self, place: Place) -> str:
        key = f"model {_absolute(place)}"
        origin = ModelOrigin.read(place)
        if origin is None:
            self.graph.add(LineageNode(key, "model", str(place)))
            return key
        said = origin.model_dump(exclude={"format", "run", "folder", "manta_version"})
        facts = {name: value for name, value in said.items() if value is not False}
        facts["exported by"] = f"manta {origin.manta_version}"
        if self.graph.add(LineageNode(key, "model", str(place), facts)):
            run = self._run_of(origin)
            self.graph.link(key, f"step {origin.step:,} of", run)
        return key

    def _run_of(self, origin: ModelOrigin) -> str:
        place = place_of(origin.folder)
        key = f"run {origin.folder}"
        if not (place / RUN).exists():
            why = "not there any more; the model says the rest"
            facts = {"corpus": origin.corpus_fingerprint, "config": origin.binding}
            self.graph.add(LineageNode(key, "run", origin.folder, facts, why))
            return key
        state = read_state(place)
        if origin.binding not in (state.binding, state.once_bound):
            why = f"another run is there now, of the config {state.binding[:12]}…"
            facts = {"corpus": origin.corpus_fingerprint, "config": origin.binding}
            self.graph.add(LineageNode(key, "run", origin.folder, facts, why))
            return key
        return self.run(place)

    def run(self, place: Place) -> str:
        key = f"run {_absolute(place)}"
        if key in self.graph.nodes:
            return key
        state, config = read_state(place), recorded_config(place)
        self.graph.add(LineageNode(key, "run", str(place), run_facts(state, config)))
        if state.fork is not None:
            self._fork(key, place, state.fork)
        for named in named_models(config):
            self.graph.link(key, BEGAN_WITH[named.key], self._named(named.name))
        self.graph.link(key, "was trained on", self.corpus(config.corpus, state.corpus_fingerprint))
        return key

    def _fork(self, key: str, place: Place, fork: Fork) -> None:
        parent = place.parent / fork.run
        relation = f"was forked after step {fork.step:,} of"
        if (parent / RUN).exists():
            self.graph.link(key, relation, self.run(parent))
            return
        missing = f"run {_absolute(parent)}"
        why = "not beside the fork, whose ledger has its steps all the same"
        self.graph.add(LineageNode(missing, "run", fork.run, {}, why))
        self.graph.link(key, relation, missing)
        if fork.before:
            *above, last = fork.before
            self._fork(missing, place, last.model_copy(update={"before": above}))

    def _named(self, name: str) -> str:
        """A model that a run's config names: a folder, or a name on the Hub."""
        folder = Path(name)
        if folder.is_dir() and (folder / LINEAGE).exists():
            return self.model(folder)
        key = f"model {_absolute(folder) if folder.is_dir() else name}"
        if self.graph.add(LineageNode(key, "model", name)) and folder.parent.name == EXPORTS:
            run = folder.parents[1]
            if (run / RUN).exists():
                step = int(folder.name.rpartition("-")[2])
                self.graph.link(key, f"step {step:,} of", self.run(run))
        return key

    def corpus(self, folder: str, fingerprint: str | None = None) -> str:
        """The corpus in a folder, which is to have a fingerprint, and what it was made of."""
        shown = without_credentials(folder)
        try:
            manifest = Manifest.read(folder)
        except CorpusError as error:
            if fingerprint is None:
                raise
            return self._lost(shown, fingerprint, str(error).partition(";")[0])
        if fingerprint not in (None, manifest.fingerprint):
            why = f"another corpus is there now, {manifest.fingerprint[:12]}…"
            return self._lost(shown, str(fingerprint), why)
        key = f"corpus {manifest.fingerprint}"
        if self.graph.add(LineageNode(key, "corpus", shown, corpus_facts(manifest))):
            origin = Origin.read(folder, manifest.fingerprint)
            if origin is None:
                self._patterns(key, manifest)
            else:
                self._origin(key, origin)
        return key

    def _lost(self, folder: str, fingerprint: str, why: str) -> str:
        key = f"corpus {fingerprint}"
        self.graph.add(LineageNode(key, "corpus", folder, {"fingerprint": fingerprint}, why))
        return key

    def _patterns(self, key: str, manifest: Manifest) -> None:
        """The sources of a corpus that an older version prepared, by its config."""
        for source in manifest.config.get("sources", []):
            name = str(source["name"])
            below = f"{key} {name}"
            facts = {"format": source.get("format"), "paths": source.get("paths")}
            why = "an older version of Manta recorded no files"
            self.graph.add(LineageNode(below, "source", name, facts, why))
            self.graph.link(key, "source", below)

    def _origin(self, key: str, origin: Origin) -> None:
        for source in origin.sources:
            self._source(key, source)
        for parent in origin.parents:
            self.graph.link(key, RELATIONS[parent.relation], self._parent(parent))

    def _source(self, key: str, source: OriginSource) -> None:
        below = f"{key} {source.name}"
        facts = source.model_dump(exclude={"name", "files"})
        facts["files"] = len(source.files)
        self.graph.add(LineageNode(below, "source", source.name, facts))
        self.graph.link(key, "source", below)
        for file in source.files:
            of_file = f"file {file.sha256} {file.path}"  # two may have the same content
            facts = file.model_dump(exclude={"path"})
            self.graph.add(LineageNode(of_file, "file", file.path, facts))
            self.graph.link(below, "file", of_file)

    def _parent(self, parent: ParentCorpus) -> str:
        """A parent: as it is in its folder, else by what its child says of it."""
        if Path(parent.folder, MANIFEST).exists():
            key = self.corpus(parent.folder, parent.fingerprint)
        else:
            key = self._lost(parent.folder, parent.fingerprint, "not there any more")
        node = self.graph.nodes[key]
        if node.missing and parent.origin is not None and not list(self.graph.below(key)):
            self._origin(key, parent.origin)
        return key


def _absolute(place: Place) -> str:
    return str(place.absolute()) if isinstance(place, Path) else str(place)
