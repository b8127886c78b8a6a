"""Check a ledger's hash chain from its first row on, and against the digests in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from manta.config.errors import RunError
from manta.stream.chain import START, chained
from manta.stream.ledger import LedgerPart

REMEDY = "put the ledger back as it was written, from a copy"


@dataclass(frozen=True)
class Claims:
    """What a ledger is compared with, besides schedule and sample order.

    Attributes:
        bindings: digests of the config and corpus that the run was trained by; empty if unknown.
        fork: the last step that another run trained, by a config of its own; 0 if there is none.
        marks: file that records a digest → a step, and the chain's digest after it.
    """

    bindings: Set[str] = frozenset()
    fork: int = 0
    marks: Mapping[str, tuple[int, str]] = field(default_factory=dict)


class ChainCheck:
    """Takes the parts of a ledger in order, and refuses the first that doesn't match.

    Attributes:
        unsealed: the last step that an older version wrote, without digests; 0 if none did.
    """

    def __init__(self, claims: Claims):
        self._claims, self._chain = claims, START
        self.unsealed = 0

    def take(self, part: LedgerPart) -> None:
        """Check the next part.

        Raises:
            RunError: naming the part, if it doesn't match.
        """
        link, first, last = part.link, part.table["step"][0].as_py(), part.last.step
        if link is None:
            if self._chain != START:
                raise RunError(f"{part.path}: the digests of its rows are missing; {REMEDY}")
            self.unsealed = last
            return
        if link.before != self._chain:
            raise RunError(
                f"{part.path}: step {first}: the rows before this part were changed after it was "
                f"written; {REMEDY}"
            )
        part.checked()
        known = not self._claims.bindings or link.binding in self._claims.bindings
        if not known and last > self._claims.fork:
            raise RunError(
                f"{part.path}: step {first}: by its digest it was trained with another config or "
                f"corpus than config.yaml and run.json say; {REMEDY}, and these two files with it"
            )
        for file, (step, digest) in self._claims.marks.items():
            if first <= step <= last:
                rows = part.table.slice(0, step - first + 1)
                if chained(rows, link.binding, link.before) != digest:
                    raise RunError(
                        f"{part.path}: step {step}: the digest of the rows up to this step is not "
                        f"that in {file}; {REMEDY}"
                    )
        self._chain = link.after
