"""Counters: what is new is taken once, what is old never, and a crash makes no exception."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_gateway.codec.replay import MOST_AHEAD, Freshness, ReplayGuard, ReplayPolicy, ReplayRule

FRESH, REPEATED, REPLAYED = Freshness.FRESH, Freshness.REPEATED, Freshness.REPLAYED


def guard(
    policy: ReplayPolicy = "newer", *, span: int = 1 << 32, window: int = 0, last: int | None = None
) -> ReplayGuard:
    return ReplayGuard(ReplayRule(counter="counter", policy=policy, window=window), span, last)


def judged(of: ReplayGuard, counters: list[int]) -> list[Freshness]:
    return [of.judge(counter) for counter in counters]


def test_newer_is_taken_and_older_is_not() -> None:
    """Gaps are no matter; the same number is a repetition, an older one a replay."""
    assert judged(guard(), [7, 8, 8, 20, 19, 7, 21]) == [FRESH, FRESH, REPEATED, FRESH, REPLAYED, REPLAYED, FRESH]


def test_a_counter_goes_over_its_end() -> None:
    """After the greatest number comes 0, and the numbers before the end are old then."""
    assert judged(guard(span=256), [254, 255, 0, 1, 255, 254]) == [FRESH] * 4 + [REPLAYED] * 2


@pytest.mark.parametrize(("ahead", "verdict"), [(127, FRESH), (128, REPLAYED), (129, REPLAYED)])
def test_half_the_span_is_newer(ahead: int, verdict: Freshness) -> None:
    """Up to half the span ahead is newer; from there on it is older."""
    assert judged(guard(span=256), [10, (10 + ahead) % 256]) == [FRESH, verdict]


def test_late_frames_within_the_window_are_taken_once() -> None:
    """With a window of 3, frames may overtake each other by so many numbers."""
    counters = [10, 13, 11, 12, 11, 10, 9, 14]
    assert judged(guard(window=3), counters) == [FRESH, FRESH, FRESH, FRESH, REPEATED, REPEATED, REPLAYED, FRESH]


def test_what_was_before_the_first_frame_is_not_let_in_by_the_window() -> None:
    """Nobody knows which of them were taken before the gateway forgot."""
    assert judged(guard(window=8), [10, 9, 8]) == [FRESH, REPEATED, REPEATED]


def test_a_device_that_counts_anew_is_refused_unless_allowed() -> None:
    """By `newer`, low numbers are a replay; by `newer-or-restarted`, the device's new start."""
    counters = [5000, 0, 1, 5000]
    assert judged(guard("newer"), counters) == [FRESH, REPLAYED, REPLAYED, REPEATED]
    assert judged(guard("newer-or-restarted"), counters) == [FRESH, FRESH, FRESH, FRESH]
    assert judged(guard("newer-or-restarted"), [5000, 4999, 1024, 1023]) == [FRESH, REPLAYED, REPLAYED, FRESH]


def test_only_repetitions_of_a_plain_counter_are_dropped() -> None:
    """A packet id that nothing protects is for dropping what the radio sends again, wherever it jumps."""
    counters = [5, 5, 5, 6, 6, 2, 2, 255, 0, 0]
    expected = [FRESH, REPEATED, REPEATED, FRESH, REPEATED, FRESH, REPEATED, FRESH, FRESH, REPEATED]
    assert judged(guard("repeats", span=256), counters) == expected
    assert judged(guard("repeats", span=256, window=2), [5, 4, 5, 4, 6]) == [FRESH, FRESH, REPEATED, REPEATED, FRESH]


@pytest.mark.parametrize("counter", [-1, 256, 1 << 70])
def test_a_number_the_counter_cannot_have_is_refused(counter: int) -> None:
    """A counter wider than declared takes nothing in and changes nothing."""
    of = guard(span=256, last=3)
    assert judged(of, [counter, 4]) == [REPLAYED, FRESH]


@given(
    policy=st.sampled_from(["newer", "newer-or-restarted", "repeats"]),
    span=st.integers(2, 1 << 40),
    window=st.integers(0, 64),
    last=st.none() | st.integers(0, 1 << 40),
    counters=st.lists(st.integers(-5, 1 << 41) | st.integers(0, 40)),
)
def test_arbitrary_counters_raise_nothing(
    policy: ReplayPolicy, span: int, window: int, last: int | None, counters: list[int]
) -> None:
    """Every number gets a verdict, and the number taken last is never taken again at once."""
    of = guard(policy, span=span, window=window, last=None if last is None else last % span)
    for counter in counters:
        if of.judge(counter) is FRESH and of.last == counter:
            assert of.judge(counter) is REPEATED


@given(
    counters=st.lists(st.integers(0, 60), min_size=1),
    window=st.integers(0, 10),
    shift=st.integers(0, (1 << 32) - 1),
)
def test_no_number_is_taken_twice(counters: list[int], window: int, shift: int) -> None:
    """In whatever order a recording is played back, and wherever the counter wraps, no number is taken twice."""
    of = guard(window=window)
    taken = [counter for counter in counters if of.judge((counter + shift) % (1 << 32)) is FRESH]
    assert len(taken) == len(set(taken))


@given(
    order=st.permutations(range(12)),
    shift=st.integers(0, (1 << 32) - 1),
)
def test_within_the_window_every_number_is_taken(order: list[int], shift: int) -> None:
    """Frames that overtake each other by no more than the window all arrive, once."""
    span = 1 << 32
    # A frame just before the others: what is before the first is never let in.
    of = guard(window=12, last=(shift - 1) % span)
    assert judged(of, [(number + shift) % span for number in order]) == [FRESH] * 12


class Recording:
    """A gateway that crashes when it likes, and what it has on disk; the attacker has every frame ever sent."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.disk: int | None = None
        self.guard = guard(window=window)
        self.writes = 0
        self.taken: list[int] = []
        self.now_s = 0.0

    def hear(self, counter: int) -> None:
        if self.guard.judge(counter) is FRESH:
            if self.guard.must_reserve:
                self.disk = self.guard.reserve(self.now_s)
                self.writes += 1
            # Only now is what came with it handed on.
            self.taken.append(counter)

    def crash(self) -> None:
        self.guard = guard(window=self.window, last=self.disk)

    def stop(self) -> None:
        self.disk = self.guard.last
        self.crash()


@given(
    steps=st.lists(
        st.integers(1, 50)
        | st.sampled_from(["crash", "stop", "play back"])
        | st.tuples(st.just("wait"), st.floats(0, 1000)),
        max_size=60,
    ),
    window=st.integers(0, 10),
)
@example(steps=[1, 1, 1, "crash", "play back", 1, "play back"], window=0)
def test_a_restart_cannot_be_used_to_replay(steps: list[int | str | tuple[str, float]], window: int) -> None:
    """Crashes, stops and recordings played back at any moment: nothing is ever taken twice."""
    gateway, sent, counter = Recording(window), [], 100
    for step in steps:
        match step:
            case int():
                counter += step
                sent.append(counter)
                gateway.hear(counter)
            case "crash":
                gateway.crash()
            case "stop":
                gateway.stop()
            case "play back":
                for each in sent:
                    gateway.hear(each)
            case (_, float(seconds)):
                gateway.now_s += seconds
    assert len(gateway.taken) == len(set(gateway.taken))


@pytest.mark.parametrize(("period_s", "most_writes", "most_lost_s"), [(0.01, 500, 60), (1, 60, 300), (600, 72, 1800)])
def test_writing_is_seldom_and_a_crash_costs_minutes_at_most(
    period_s: float, most_writes: int, most_lost_s: float
) -> None:
    """A device of any pace: in an hour, or 144 frames, few writes; after a crash it is heard again soon."""
    gateway = Recording(0)
    frames = max(round(3600 / period_s), 144)
    for number in range(frames):
        gateway.now_s = number * period_s
        gateway.hear(number)
    assert len(gateway.taken) == frames
    assert gateway.writes <= most_writes
    gateway.crash()
    refused = 0
    while gateway.guard.judge(frames + refused) is not FRESH:
        refused += 1
    assert refused * period_s <= most_lost_s
    assert refused <= MOST_AHEAD


def test_a_stop_costs_nothing() -> None:
    """With the last number written on the way down, the next frame is taken."""
    gateway = Recording(0)
    for number in range(100):
        gateway.hear(number)
    gateway.stop()
    gateway.hear(100)
    assert gateway.taken == list(range(101))


def test_a_short_counter_does_not_outrun_its_reservation_in_one_batch() -> None:
    """However far a counter of 8 bits goes before somebody asks, it is known that the disk must be written."""
    of = guard(span=256)
    of.judge(0)
    of.reserve(0.0)
    for number in range(1, 300):
        assert of.judge(number % 256) is FRESH
    assert of.must_reserve


def test_a_short_counter_is_heard_after_a_crash() -> None:
    """Of 256 numbers a quarter is reserved at most, so that the device does not seem to come from behind."""
    of = guard(span=256)
    for number in range(2000):
        of.judge(number % 256)
        if of.must_reserve:
            disk = of.reserve(0.0)
    after = guard(span=256, last=disk)
    assert any(after.judge(number % 256) is FRESH for number in range(2000, 2065))


def test_what_nothing_protects_is_not_written() -> None:
    """Numbers that only tell repetitions apart are not worth a place on disk."""
    of = guard("repeats", span=256)
    of.judge(3)
    assert (of.must_reserve, of.would_reserve) == (False, False)


def test_a_device_never_heard_reserves_nothing() -> None:
    """There is no number to write yet."""
    assert (guard().must_reserve, guard().would_reserve) == (False, False)
    with pytest.raises(ValueError, match="never heard"):
        guard().reserve(0.0)
