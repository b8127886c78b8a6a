"""Filters of a corpus: documents in, verdicts out. `docs/filters.md` says what each one does.

A filter that judges documents one by one is a `Filter` (`filter_verdict.py`), and runs in the first
pass as part of a chain (`filter_chain.py`). Filters that compare documents (`near_duplicates.py`,
`contamination.py`) run after it. What is left out is written down with its reason (`dropped.py`).
"""

from manta.corpus.filters.filter_verdict import Drop, Keep

__all__ = ["Drop", "Keep"]
