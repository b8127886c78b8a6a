"""What `gpu.py` measures: its columns, and a case of each. Light to import."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import random_corpus

LOOPS = ("engine", "bare")

LLAMA_1B = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131_072,
}
MICRO = {
    **LLAMA_1B,
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


@dataclass(frozen=True)
class Column:
    """Options of both loops; `gpu.py` says what they are."""

    compile: bool = True
    full_logits: bool = False
    stock_attention: bool = False
    fused_optimizer: bool = True
    checkpointing: bool = False
    document_mask: bool = False
    reads_each_step: bool = False
    snapshots: bool = False
    bf16_weights: bool = False  # of the engine; the bare loop has autocast
    chunk: int | None = None  # bytes of logits at a time; else what Manta takes


COLUMNS = {
    "eager": Column(compile=False),
    "compile": Column(),
    "full logits": Column(full_logits=True),
    "stock model": Column(full_logits=True, stock_attention=True),
    "AdamW foreach": Column(fused_optimizer=False),
    "checkpointing": Column(checkpointing=True),
    "document mask": Column(document_mask=True),
    "bf16 weights": Column(bf16_weights=True),
    "log each step": Column(reads_each_step=True),
    "snapshots": Column(snapshots=True),
    "chunk 512 MiB": Column(chunk=2**29),
}


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    loop: str
    column: str
    seq_len: int
    quick: bool
    steps: int
    eager: bool = False

    @property
    def options(self) -> Column:
        """The options of its column, without compilation if it is to be left out."""
        found = COLUMNS[self.column]
        return replace(found, compile=False) if self.eager else found

    @property
    def micro_batch(self) -> int:
        """Rows of a forward pass: 16k tokens of them, or two rows to check the script."""
        return 2 if self.quick else max(1, 16_384 // self.seq_len)

    @property
    def batch(self) -> int:
        """Rows of a step: two forward passes, so that accumulation is part of it."""
        return 2 * self.micro_batch

    def to_json(self) -> str:
        """As text; `Case(**json.loads(text))` is the way back."""
        return json.dumps(asdict(self))


def write_corpus(folder: Path, quick: bool) -> None:
    """Random tokens of the model's vocabulary: fewer than a run reads, which begins anew then."""
    sizes = MICRO if quick else LLAMA_1B
    random_corpus.write(
        folder, shard_count=1, shard_tokens=2**22, vocab_size=int(sizes["vocab_size"])
    )
