"""docs/how-to/find-the-fault.md lists what the doctor can find, and tests seed it."""

from __future__ import annotations

import re
from pathlib import Path

from edge_gateway.doctor import all_faults
from edge_gateway.doctor.report import fault_table

ROOT = Path(__file__).parents[2]


def test_the_table_is_up_to_date() -> None:
    """The page has the table that the declarations give; print `fault_table(all_faults())` to renew it."""
    assert fault_table(all_faults()) in (ROOT / "docs/how-to/find-the-fault.md").read_text()


def test_every_fault_is_seeded_by_a_test() -> None:
    """No fault is declared that no test brings about: its id stands in a test as what is found."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    found = set(re.findall(r'"([a-z]+\.[a-z0-9-]+)"', tests))
    assert {fault.id for fault in all_faults()} - found == set()
