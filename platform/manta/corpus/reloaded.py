"""Check that a tokenizer loaded by Transformers encodes as the corpus's own does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manta.corpus.tokenizer import CorpusTokenizer, Encoder

# Texts with characters that normalizers and pre-tokenizers treat specially.
PROBES = (
    "",
    "a",
    " Two  spaces\tand\n\n lines \r\n",
    "ÀÉ naïve 漢字 ☃ ﬁ №１２",
    "1234567 x_y != z--; It's",
)


def difference(
    loaded: Any, tokenizer: CorpusTokenizer, file: Path, texts: Iterable[str]
) -> str | None:
    """How a loaded tokenizer encodes differently from the corpus's own; None if it doesn't.

    Args:
        loaded: the tokenizer as Transformers loads it.
        tokenizer: the corpus's own tokenizer.
        file: path of the corpus's tokenizer.json.
        texts: texts to compare on, besides `PROBES`.
    """
    own = Encoder(file, tokenizer.begins_with, tokenizer.eos_id, tokenizer.dtype)
    compared = [*PROBES, *texts]
    eos = tokenizer.eos_id
    wrong = []
    for text, expected in zip(compared, own.encode(compared), strict=True):
        # As in the corpus, text that spells a special token is encoded as text, without EOS inside.
        ids = loaded(text, split_special_tokens=True)["input_ids"]
        if [*(i for i in ids if i != eos), eos] != expected.tolist():
            wrong.append(text)
    if not wrong:
        return None
    return (
        f"Transformers loads it as {type(loaded).__name__}, which encodes {len(wrong)} of "
        f"{len(compared)} texts differently from tokenizer.json, such as {wrong[0][:40]!r}"
    )
