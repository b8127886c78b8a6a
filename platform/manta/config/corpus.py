"""The config of a corpus: where documents come from and how they become token shards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from manta.config.filters import FiltersSection
from manta.config.section import Section
from manta.config.units import PositiveTokens
from manta.config.urls import is_url

# Shares that are meant to add up to 1 may exceed it by this much, from binary rounding.
ROUNDING = 1e-6


RecordKind = Literal["conversations", "pairs"]
LabelKind = Literal["classes", "numbers"]
ChatColumn = Literal[
    "messages",
    "tools",
    "documents",
    "conversations",
    "system",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "instruction",
    "output",
    "input",
]


class OnlySection(Section):
    """Which rows of a source's files are its documents: those with a number in a range.

    Several sources with the same files and adjoining ranges cut these by the number, such as how
    difficult a document is.
    """

    column: str = Field(
        description="column or key that holds the number; dots lead into nested ones"
    )
    at_least: float | None = Field(
        default=None, description="smallest number of the source's rows; any if left out"
    )
    below: float | None = Field(
        default=None, description="number that is above those of the source's rows"
    )

    @model_validator(mode="after")
    def _a_range(self) -> OnlySection:
        if self.at_least is None and self.below is None:
            raise ValueError("give 'at_least', 'below' or both")
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            raise ValueError(f"no number is at least {self.at_least:g} and below {self.below:g}")
        return self


class SourceSection(Section):
    """One source of documents."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the source; its loss is shown under it",
    )
    format: Literal["text", "jsonl", "parquet", "arrow", "python-stdlib"] = Field(
        description="format of the files; python-stdlib is the text of Python's modules, to try "
        "things out"
    )
    paths: list[str] = Field(
        default_factory=list, description="files, folders, globs or URLs (s3://, gs://, hf://)"
    )
    text_column: str = Field(
        default="text", description="column or key that holds the text; dots lead into nested ones"
    )
    only: OnlySection | None = Field(
        default=None, description="take only rows with a number in a range; all if left out"
    )

    @model_validator(mode="after")
    def _paths_where_needed(self) -> SourceSection:
        if (self.format == "python-stdlib") == bool(self.paths):
            raise ValueError(
                "python-stdlib takes no 'paths'" if self.paths else f"{self.format} needs 'paths'"
            )
        if self.only is not None and self.format in ("text", "python-stdlib"):
            raise ValueError(
                f"'only' needs rows with columns (jsonl, parquet, arrow), not {self.format}"
            )
        return self


class TokenizerSection(Section):
    """A tokenizer to load, or a byte-level BPE to train on a sample of the corpus."""

    path: str | None = Field(
        default=None, description="a tokenizer.json, or a Hugging Face folder or name"
    )
    vocab_size: int | None = Field(
        default=None, ge=257, description="entries of the vocabulary of a BPE to train"
    )
    # Merges of a vocabulary of 32k change little beyond some tens of MB of text, while the
    # time and memory of training grow with it.
    sample_bytes: int = Field(
        default=50_000_000, gt=0, description="bytes of text to train the BPE on"
    )
    eos: str | None = Field(
        default=None, description="end-of-document token of a tokenizer that does not name its own"
    )
    bos: bool | None = Field(
        default=None,
        description="whether documents, and prompts of an exported model, begin with the "
        "tokenizer's BOS; if left out, as the tokenizer itself does",
    )

    add: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="tokens that are added to the tokenizer that path loads, such as those of a "
        "chat template; a model needs model.grow_vocabulary then",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> TokenizerSection:
        if (self.path is None) == (self.vocab_size is None):
            raise ValueError(
                "give either 'path' (to load) or 'vocab_size' (to train); to replace the file's "
                "section as a whole, write 'tokenizer={path: PATH}'"
            )
        if self.eos is not None and self.path is None:
            raise ValueError("'eos' is only for a tokenizer that 'path' loads")
        if self.add and self.path is None:
            raise ValueError("'add' is only for a tokenizer that 'path' loads")
        if self.bos and self.path is None:
            raise ValueError("'bos' is only for a tokenizer that 'path' loads")
        return self


class ContextSection(Section):
    """Passages that are attached to questions, to learn to answer from what is given."""

    paths: list[str] = Field(
        min_length=1,
        description="files, folders or patterns of .txt, .md or .rst, or .jsonl with a text a line",
    )
    passages: int = Field(default=3, ge=1, description="passages that each question gets")
    words: int = Field(default=120, ge=8, description="most words of a passage that is cut out")
    lacking: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of the questions whose right passage is left out; the answer becomes "
        "refusal then",
    )
    refusal: str = Field(
        default="The documents do not say.",
        min_length=1,
        description="answer where the right passage is not among those that are given",
    )
    place: Literal["system", "documents"] = Field(
        default="system",
        description="where passages go: a turn of the system, or the template's documents",
    )


class ChatSection(Section):
    """How conversations become rows of tokens."""

    records: RecordKind = Field(
        default="conversations",
        description="what a record is: a conversation, or a pair of answers to one prompt, the "
        "chosen one and the rejected one",
    )
    length: int = Field(ge=2, description="tokens of a row, which is train.seq_len of a run on it")
    template: str | None = Field(
        default=None, description="a Jinja file; if left out, the tokenizer's own template"
    )
    template_args: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="arguments of the template that a conversation may replace, such as "
        "enable_thinking",
    )
    supervise: list[str] = Field(
        default=["assistant"], min_length=1, description="roles whose messages are trained on"
    )
    turns: Literal["all", "last"] = Field(
        default="all", description="which of these messages: all, or the last of a conversation"
    )
    too_long: Literal["stop", "drop", "cut"] = Field(
        default="stop",
        description="at a conversation or pair that is longer than a row: stop, leave it out, or "
        "leave out its oldest turns, of a pair those of the prompt",
    )
    packing: bool | Literal["windows"] = Field(
        default=True,
        description="lay several whole conversations or pairs into a row, or (false) one a row; "
        "windows: cut the sequence of all conversations wherever a row is full, so that a later "
        "part of a conversation is trained on without what is in the row before",
    )
    context: ContextSection | None = Field(
        default=None, description="attach passages to questions; needs bm25s, the extra `context`"
    )
    columns: dict[ChatColumn, str] = Field(
        default_factory=dict,
        description="name that a column has in the sources, such as messages: dialog",
    )

    @model_validator(mode="after")
    def _context_is_for_conversations(self) -> ChatSection:
        if self.context and self.records == "pairs":
            raise ValueError("'context' is for conversations, not for pairs")
        return self

    @model_validator(mode="after")
    def _windows_cut_conversations(self) -> ChatSection:
        if self.packing != "windows":
            return self
        if self.records == "pairs":
            raise ValueError(
                "'packing': windows cut conversations anywhere, but a pair is compared as a whole: "
                "take true or false"
            )
        if self.too_long != "stop":
            raise ValueError("'too_long': no conversation is too long for windows: leave it out")
        return self

    @field_validator("template_args")
    @classmethod
    def _are_names(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if wrong := [name for name in arguments if not name.isidentifier()]:
            raise ValueError(f"'{wrong[0]}' can't be the name of an argument: write it as a word")
        return arguments


class LabelledSection(Section):
    """How texts with a label become rows of tokens."""

    length: int = Field(ge=2, description="tokens of a row, which is train.seq_len of a run on it")
    labels: LabelKind = Field(
        default="classes", description="what labels are: names of classes, or numbers to predict"
    )
    text: str = Field(default="text", description="column or key that holds the text")
    label: str = Field(default="label", description="column or key that holds the label")
    too_long: Literal["stop", "drop", "cut"] = Field(
        default="stop",
        description="at a text that is longer than a row: stop, leave it out, or keep its first "
        "tokens",
    )
    packing: bool = Field(
        default=True, description="lay several texts into a row, else one text a row"
    )


class SplitSection(Section):
    """Shares of all documents. If their sum is below 1, all are scaled up in proportion."""

    train: float = Field(default=0.98, gt=0, description="share of the documents to train on")
    validation: float = Field(
        default=0.01, ge=0, description="share to evaluate on during training"
    )
    test: float = Field(
        default=0.01, ge=0, description="share that training and evaluation never read"
    )

    @model_validator(mode="after")
    def _no_more_than_all(self) -> SplitSection:
        total = self.train + self.validation + self.test
        if total > 1 + ROUNDING:
            rest = 1 - self.validation - self.test
            remedy = f"; with these two, train can be {rest:.6g}" if rest > 0 else ""
            raise ValueError(
                f"train {self.train:g} + validation {self.validation:g} + test {self.test:g} are "
                f"{total:.6g} of all documents, which is more than 1{remedy}"
            )
        return self


class CorpusConfig(Section):
    """Everything that defines a prepared corpus."""

    out: str = Field(description="folder to write the shards and the manifest to")
    extends: str | None = Field(
        default=None,
        description="folder of a corpus whose documents come first, with their split, shard and "
        "sample ids; 'tokenizer' is left out then",
    )
    sources: list[SourceSection] = Field(min_length=1, description="where documents come from")
    tokenizer: TokenizerSection
    chat: ChatSection | None = Field(
        default=None, description="for sources that hold conversations rather than text"
    )
    labelled: LabelledSection | None = Field(
        default=None, description="for sources that hold texts with a label"
    )
    filters: FiltersSection = FiltersSection()
    split: SplitSection = SplitSection()
    # 64 MB of uint16: large enough to read in one go, small enough to copy and to check. The
    # upper bound keeps the offsets of a list column within 32 bits.
    shard_tokens: Annotated[PositiveTokens, Field(le=1_000_000_000)] = Field(
        default=32_000_000, description="most tokens in a shard"
    )
    on_error: Literal["stop", "quarantine"] = Field(
        default="stop",
        description="at a document that can't be read: stop, or list it in quarantine.jsonl and "
        "continue",
    )

    @model_validator(mode="before")
    @classmethod
    def _tokenizer_of_the_extended(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("extends") and data.get("tokenizer") is None:
            return {**data, "tokenizer": {"path": f"{data['extends']}/tokenizer.json"}}
        return data

    @field_validator("out")
    @classmethod
    def _a_folder(cls, out: str) -> str:
        if is_url(out):
            raise ValueError(
                "give a folder that the driver and all workers see, not a URL; a finished corpus "
                "can be copied to a store"
            )
        return out

    @model_validator(mode="after")
    def _records_fit(self) -> CorpusConfig:
        kinds = [name for name in ("chat", "labelled") if getattr(self, name) is not None]
        if not kinds:
            return self
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)}: a corpus holds one kind of records")
        if self.tokenizer.path is None:
            raise ValueError(
                f"'{kinds[0]}' needs tokenizer.path: name the tokenizer of the model to fine-tune"
            )
        for source in self.sources:
            if source.format not in ("jsonl", "parquet", "arrow"):
                raise ValueError(
                    f"source '{source.name}': '{kinds[0]}' needs records (jsonl, parquet, arrow), "
                    f"not {source.format}"
                )
        return self

    @model_validator(mode="after")
    def _filters_fit(self) -> CorpusConfig:
        if not self.has_records:
            return self
        if self.filters.boilerplate.enabled:
            raise ValueError(
                "filters.boilerplate removes lines, which would change what was said in a record: "
                "leave it out"
            )
        if self.filters.quality.enabled and "c4" in self.filters.quality.rules:
            raise ValueError(
                "filters.quality.rules: c4 removes lines, which would change what was said in a "
                "record: leave it out"
            )
        return self

    @property
    def has_records(self) -> bool:
        """Whether documents are records, with more than a text: conversations, pairs, labels."""
        return self.chat is not None or self.labelled is not None

    @model_validator(mode="after")
    def _caps_fit(self) -> CorpusConfig:
        formats = {source.name: source.format for source in self.sources}
        for cap in self.filters.caps:
            for name in cap.sources or formats:
                if name not in formats:
                    raise ValueError(
                        f"filters.caps: '{cap.name}': there is no source '{name}', only "
                        f"{', '.join(formats)}"
                    )
                if cap.column and formats[name] not in ("jsonl", "parquet", "arrow"):
                    raise ValueError(
                        f"filters.caps: '{cap.name}': source '{name}' of the format "
                        f"{formats[name]} has no columns: name others in 'sources'"
                    )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> CorpusConfig:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called '{name}'; give each its own name")
        return self
