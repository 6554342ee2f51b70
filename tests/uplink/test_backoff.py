"""How long to wait before connecting again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.uplink.backoff import Backoff


@given(st.floats(0.01, 10), st.floats(0.01, 1000), st.integers(0, 2**32), st.integers(1, 40))
def test_each_pause_is_between_half_and_whole_of_a_doubling_ceiling(
    first_s: float, most_s: float, seed: int, times: int
) -> None:
    """The ceiling starts at the first pause, doubles up to the most, and a pause is drawn from its upper half."""
    backoff = Backoff(first_s, most_s, random.Random(seed))
    ceiling_s = first_s
    for _ in range(times):
        assert ceiling_s / 2 <= backoff.next_s() <= ceiling_s
        ceiling_s = min(ceiling_s * 2, max(first_s, most_s))
    backoff.reset()
    assert first_s / 2 <= backoff.next_s() <= first_s


def test_gateways_do_not_return_together() -> None:
    """A thousand gateways that lost the hub in one second come back spread over half of the pause."""
    pauses_s = sorted(Backoff(60, 60, random.Random(seed)).next_s() for seed in range(1000))
    assert max(late - early for early, late in zip(pauses_s, pauses_s[50:], strict=False)) < 5
