"""Numbers as people read them, the same on the console and in the report."""

from __future__ import annotations

import math

# Above this loss the perplexity isn't shown: it means nothing, and exp() would soon overflow.
MOST_NATS = 100.0
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def significant(value: float, digits: int) -> float:
    """`value` rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


def count(value: float) -> str:
    """A count with three digits and a suffix: ``12.3M``; below a thousand a whole number."""
    # Round before the suffix is chosen, so that 999,999 reads 1.00M and not 1000K.
    rounded = significant(value, 3)
    for size, suffix in _SUFFIXES:
        if abs(rounded) >= size:
            scaled = rounded / size
            digits = 2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0
            return f"{scaled:.{digits}f}{suffix}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """A duration in seconds as ``4.2 s``, ``3:07``, ``1:02:03`` or ``12d 03h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d {hours:02d}h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def loss(value: float | None) -> str:
    """A loss with four digits after the point, or a dash."""
    return "–" if value is None else f"{value:.4f}"


def perplexity(loss: float) -> str:
    """The perplexity of a loss in nats a token: e to the loss."""
    if loss > MOST_NATS:
        return f"more than {math.exp(MOST_NATS):.0e}"
    return f"{math.exp(loss):,.2f}"


def bits_per_byte(loss: float, tokens_per_byte: float) -> float:
    """A loss in nats a token as bits a byte of the text: loss / ln 2 * tokens / bytes.

    It doesn't depend on the tokenizer, so models with different tokenizers compare: Gao et
    al. (2020), "The Pile", section 3.1. The special tokens at the ends of documents count among the
    tokens, as they do in the loss.
    """
    return loss / math.log(2) * tokens_per_byte


def rate(value: float | None) -> str:
    """A learning rate: ``3.00e-04``, or a dash."""
    return "–" if value is None else f"{value:.2e}"


def money(value: float) -> str:
    """An amount in whatever currency the price was given in."""
    return f"{value:,.2f}"


def memory(size: float) -> str:
    """Bytes as ``23.5 GiB``, below one as ``58.2 MiB``."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
