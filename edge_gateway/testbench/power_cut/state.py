"""What a store may hold after a cut, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from edge_gateway.testbench.power_cut.contents import Contents, Key

NEVER: Final = 1 << 62
"""The transaction of what was acknowledged without ever having been in one."""


@dataclass(frozen=True)
class Problem:
    """A promise that is broken."""

    kind: str
    """A fixed word: `refused`, `unsound`, `readable`, `lost`, `came-back`, `repeated`, `out-of-order`, `half-done`,
    `unbalanced`, `ledger`, `against-policy`, `untrue`, `nonce-reused`, `never-written`, `id-reused` or `seq-reused`."""
    detail: str


@dataclass(frozen=True)
class State:
    """What a store holds after a transaction. Not to be changed."""

    contents: Contents = field(default_factory=Contents)
    last_seq: Mapping[str, int] = field(default_factory=dict)
    touched: frozenset[Key] = frozenset()
    """Accounts with changes that the ledger has not got yet."""
    open_hour: int = 0
    """Hours since 1970 of these changes, as the clock said; 0 if there are none."""
    wrong: tuple[Problem, ...] = ()
    """What the transaction did that it must not do, also if nothing is cut."""
