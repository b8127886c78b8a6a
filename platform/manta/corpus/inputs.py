"""Find the files and load the tokenizer of a corpus, before Ray is started."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manta.config.corpus import ChatSection, CorpusConfig, TokenizerSection
from manta.config.errors import CorpusError
from manta.config.filters import FiltersSection
from manta.config.urls import is_url
from manta.corpus.chat_template import check_template, with_arguments
from manta.corpus.filters.filter_plan import FilterPlan, plan_of
from manta.corpus.lineage.extending import ExtendedCorpus
from manta.corpus.manifest import Manifest
from manta.corpus.retrieval import (
    Passage,
    digest_of,
    import_bm25s,
    passage_files,
    read_passages,
)
from manta.corpus.sources import InputFile, resolve
from manta.corpus.tokenizer import CorpusTokenizer, load
from manta.corpus.workspace import finished, refuse_unusable
from manta.storage.probe import check_writable


@dataclass(frozen=True)
class Inputs:
    """The input files and the tokenizer of a corpus.

    Attributes:
        files: input files of all sources, in canonical order.
        tokenizer: the loaded tokenizer; None if one is to be trained.
        passages: texts that are attached to questions.
        filters: the filters that are on.
        extended: the corpus whose documents come first; None without one.
    """

    files: list[InputFile]
    tokenizer: CorpusTokenizer | None
    passages: list[Passage] = field(default_factory=list)
    filters: FilterPlan = field(default_factory=lambda: FilterPlan(FiltersSection()))
    extended: ExtendedCorpus | None = None

    def key(self, config: CorpusConfig) -> str:
        """Digest of what determines the corpus: config, tokenizer, size and stamp of each file."""
        listing = [(file.source, file.url, file.size, file.stamp) for file in self.files]
        tokenizer = self.tokenizer
        content = [self.recorded(config), listing, tokenizer.sha256 if tokenizer else None]
        if tokenizer:
            content.append(tokenizer.config_sha256)
        if self.passages:
            content.append(digest_of(self.passages))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def recorded(self, config: CorpusConfig) -> dict[str, Any]:
        """The config as the manifest keeps it, with the fingerprint of a corpus that it extends."""
        kept = recorded(config, self.filters)
        if self.extended is not None:
            kept["extends"] = self.extended.manifest.fingerprint
        return kept


def open_inputs(config: CorpusConfig) -> Inputs:
    """Find the files and load the tokenizer; relative paths are those of the working folder.

    Raises:
        CorpusError: naming every pattern that matches nothing, or why the tokenizer can't be used.
    """
    files = resolve(config.sources)
    filters = plan_of(config.filters, config.has_records)
    passages: list[Passage] = []
    tokenizer: CorpusTokenizer | None
    if config.chat is not None:
        tokenizer = _with_template(config.tokenizer, config.chat)
        passages = _passages(config.chat, files, tokenizer)
    else:
        tokenizer = load(config.tokenizer) if config.tokenizer.path else None
    extended = ExtendedCorpus.of(config, tokenizer)
    inputs = Inputs(files, tokenizer, passages, filters, extended)
    if extended is not None:
        extended.check_config(inputs.recorded(config))
    return inputs


def _passages(
    chat: ChatSection, files: list[InputFile], tokenizer: CorpusTokenizer
) -> list[Passage]:
    """Passages of the config's section, if it has one."""
    section = chat.context
    if section is None:
        return []
    import_bm25s()
    if section.place == "documents" and "documents" not in (tokenizer.chat_template or ""):
        raise CorpusError(
            "chat.context.place = 'documents': the chat template takes no documents; set it to "
            "system, or name another template in chat.template"
        )
    own = {Path(file.url).resolve() for file in files if not is_url(file.url)}
    if both := sorted(own & {path.resolve() for path in passage_files(section.paths)}):
        raise CorpusError(
            f"chat.context.paths: {both[0]} is a source of conversations as well: its "
            "answers, also those that are held out, would be given with the questions"
        )
    return read_passages(section)


def _with_template(section: TokenizerSection, chat: ChatSection) -> CorpusTokenizer:
    """The tokenizer at `tokenizer.path`, with the chat template and arguments of the config."""
    own = load(section) if chat.template is None else None
    template = own.chat_template if own else _template_in(str(chat.template))
    checked = check_template(template, chat, str(section.path))
    whole = with_arguments(checked, chat.template_args)
    return own if own and whole == template else load(section, whole.encode())


def _template_in(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"chat.template: {file}: can't be read: {error}") from None


def recorded(config: CorpusConfig, filters: FilterPlan) -> dict[str, Any]:
    """The config as the manifest keeps it: without the folder that it is written to.

    Filters that are on have checksums of their files in place of paths.
    """
    kept = config.model_dump(mode="json", exclude={"out"})
    if kept["tokenizer"]["bos"] is None:
        # Left out if not given, so that corpora from before this key existed have the same config.
        del kept["tokenizer"]["bos"]
    for source in kept["sources"]:
        if source["only"] is None:
            del source["only"]  # as with 'bos'
        source["weight"] = 1.0  # a key of older versions, so that the same corpus is recorded alike
    del kept["filters"], kept["extends"]
    if filters.is_on:
        kept["filters"] = filters.recorded
    if config.labelled is None:
        del kept["labelled"]
    if not config.tokenizer.add:
        del kept["tokenizer"]["add"]
    if config.chat is None:
        del kept["chat"]
    else:
        del kept["chat"]["template"]  # the tokenizer's files have it
        if config.chat.records == "conversations":
            del kept["chat"]["records"]  # as with 'bos'
        if config.chat.context is None:
            del kept["chat"]["context"]
        else:
            del kept["chat"]["context"]["paths"]  # their texts have a digest in the manifest
    return kept


def open_output(config: CorpusConfig, inputs: Inputs) -> Manifest | None:
    """Check `config.out` before anything is started.

    Returns:
        The manifest, if the corpus is finished already.

    Raises:
        CorpusError: if `out` holds another corpus, a damaged one, or something else.
        RunError: if `out` isn't writable.
    """
    out = Path(config.out).expanduser().absolute()
    manifest = finished(out, inputs.key(config))
    if manifest is None:
        check_writable(out, "out")  # first, as it makes the folder
        refuse_unusable(out)
    return manifest
