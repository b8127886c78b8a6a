"""Whether a tokenizer that Transformers has loaded is the one that encodes the corpus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from manta.corpus.tokenizer import CorpusTokenizer, Encoder

# What documents may lack that a normalizer or a pre-tokenizer looks at.
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
    """What a loaded tokenizer encodes otherwise than the corpus's own does; None if nothing.

    Args:
        loaded: the tokenizer as Transformers loads it.
        tokenizer: the corpus's.
        file: path of the tokenizer's tokenizer.json.
        texts: texts to compare, beside some that look for trouble.
    """
    own = Encoder(file, tokenizer.begins_with, tokenizer.eos_id, tokenizer.dtype)
    compared = [*PROBES, *texts]
    eos = tokenizer.eos_id
    wrong = []
    for text, expected in zip(compared, own.encode(compared), strict=True):
        # Text that spells a special token is text, as in the corpus; and it has no EOS inside.
        ids = loaded(text, split_special_tokens=True)["input_ids"]
        if [*(i for i in ids if i != eos), eos] != expected.tolist():
            wrong.append(text)
    if not wrong:
        return None
    return (
        f"Transformers loads it as {type(loaded).__name__}, which encodes {len(wrong)} of "
        f"{len(compared)} texts otherwise than tokenizer.json says, such as {wrong[0][:40]!r}"
    )
