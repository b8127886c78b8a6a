"""Does a ledger's chain hold, from its first row to what checkpoints say of it?"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from manta.config.errors import RunError
from manta.stream.chain import START, chained
from manta.stream.ledger import LedgerPart

REMEDY = "put the ledger back as it was written, from a copy"


@dataclass(frozen=True)
class Claims:
    """What else than schedule and order a ledger is held against.

    Attributes:
        bindings: digests of the config and corpus that the run was trained by; none if unknown.
        fork: the last step that another run trained, by a config of its own.
        marks: the chain's digest after a step, by the file that says so.
    """

    bindings: Set[str] = frozenset()
    fork: int = 0
    marks: Mapping[str, tuple[int, str]] = field(default_factory=dict)


class ChainCheck:
    """Takes the parts of a ledger in order, and refuses the first that does not fit.

    Attributes:
        unsealed: the last step of those that an older version wrote, without digests.
    """

    def __init__(self, claims: Claims):
        self._claims, self._chain = claims, START
        self.unsealed = 0

    def take(self, part: LedgerPart) -> None:
        """The next part.

        Raises:
            RunError: naming it.
        """
        link, first, last = part.link, part.table["step"][0].as_py(), part.last.step
        if link is None:
            if self._chain != START:
                raise RunError(f"{part.path}: it has lost the digests of its rows; {REMEDY}")
            self.unsealed = last
            return
        if link.before != self._chain:
            raise RunError(
                f"{part.path}: step {first}: the rows before it are not those that were there when "
                f"it was written; {REMEDY}"
            )
        part.checked()
        known = not self._claims.bindings or link.binding in self._claims.bindings
        if not known and last > self._claims.fork:
            raise RunError(
                f"{part.path}: step {first}: trained by another config or corpus than that of "
                f"config.yaml and run.json, by its digest; {REMEDY}, and these two with it"
            )
        for file, (step, digest) in self._claims.marks.items():
            if first <= step <= last:
                rows = part.table.slice(0, step - first + 1)
                if chained(rows, link.binding, link.before) != digest:
                    raise RunError(
                        f"{part.path}: step {step}: the rows up to it are not those of which "
                        f"{file} has the digest; {REMEDY}"
                    )
        self._chain = link.after
