"""Wall time, and whether to believe it."""

from __future__ import annotations

import subprocess
import sys
import time
import timeit
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway import clock as clock_module
from edge_gateway.clock import (
    EARLIEST_PLAUSIBLE_NS,
    NS_PER_S,
    Stamp,
    SystemClock,
    boot_offset_ns,
    kernel_is_synchronized,
    rfc3339,
    stamp,
)
from edge_gateway.errors import ConfigError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_NS = 253_402_300_799 * NS_PER_S  # the last second of the year 9999, the last RFC 3339 can write


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_777_636_800_250_000_000, "2026-05-01T12:00:00.250000Z"),
        (1_777_636_800_000_000_999, "2026-05-01T12:00:00.000000Z"),
        (951_782_399_999_999_999, "2000-02-28T23:59:59.999999Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_rfc3339_by_example(time_ns: int, text: str) -> None:
    """Times are written in UTC with microseconds; what is finer is cut, never rounded into the next second."""
    assert rfc3339(time_ns) == text


@given(st.integers(0, LAST_NS))
def test_rfc3339_reads_back(time_ns: int) -> None:
    """Any time up to the year 9999 reads back as itself, to the microsecond."""
    assert datetime.fromisoformat(rfc3339(time_ns)) == EPOCH + timedelta(microseconds=time_ns // 1000)


@given(st.tuples(st.integers(0, LAST_NS), st.integers(0, LAST_NS)).map(sorted))
def test_rfc3339_sorts_as_time_does(times_ns: list[int]) -> None:
    """Sorting the texts sorts the times."""
    assert rfc3339(times_ns[0]) <= rfc3339(times_ns[1])


def test_the_system_clock_is_the_system_clock() -> None:
    """It tells the operating system's wall time."""
    before = time.time_ns()
    assert before <= SystemClock().now_ns() <= time.time_ns()


@pytest.mark.parametrize(
    ("now_ns", "trusted"), [(0, False), (EARLIEST_PLAUSIBLE_NS - 1, False), (EARLIEST_PLAUSIBLE_NS, True)]
)
def test_a_clock_that_was_never_set_is_not_trusted(monkeypatch: pytest.MonkeyPatch, now_ns: int, trusted: bool) -> None:
    """A date before this software existed means a box without a battery that has not reached a time server."""
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    assert SystemClock().trusted is trusted


class Box:
    """A machine whose wall clock, uptime and time service a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, now_ns: int = 2 * EARLIEST_PLAUSIBLE_NS) -> None:
        self.now_ns = now_ns
        self.uptime_ns = 60 * NS_PER_S
        self.is_synchronized = False
        self.asked = 0
        monkeypatch.setattr(time, "time_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "clock_gettime_ns", lambda _: self.uptime_ns)

    def ask(self) -> bool:
        self.asked += 1
        return self.is_synchronized

    def clock(self) -> SystemClock:
        return SystemClock("synchronized", is_synchronized=self.ask)

    def wait(self, seconds: float) -> None:
        self.now_ns += round(seconds * NS_PER_S)
        self.uptime_ns += round(seconds * NS_PER_S)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(monkeypatch)


def test_a_plausible_date_is_not_enough_where_a_time_service_shall_say_so(box: Box) -> None:
    """A box that starts with the date of its last shutdown is not believed before its time service has set it."""
    clock = box.clock()
    assert not clock.trusted
    box.is_synchronized = True
    box.wait(1.0)
    assert clock.trusted


def test_a_clock_that_is_synchronized_at_the_start_is_trusted_at_once(box: Box) -> None:
    """A gateway that is restarted on a running box does not wait."""
    box.is_synchronized = True
    assert box.clock().trusted


def test_a_time_service_that_has_lost_its_servers_leaves_a_good_clock(box: Box) -> None:
    """What the kernel says after that is not asked for: the clock drifts by seconds a day, and that is all."""
    box.is_synchronized = True
    clock = box.clock()
    box.is_synchronized = False
    box.wait(30 * 86_400)
    assert clock.trusted


def test_an_impossible_date_ends_all_trust_until_the_next_synchronization(box: Box) -> None:
    """Who sets the clock to 1970 takes everything back that a time service ever said."""
    box.is_synchronized = True
    clock = box.clock()
    right_ns, box.now_ns = box.now_ns, 0
    assert not clock.trusted
    box.is_synchronized = False
    box.now_ns = right_ns
    assert not clock.trusted
    box.is_synchronized = True
    box.wait(1.0)
    assert clock.trusted


def test_a_date_that_is_impossible_once_is_believed_when_it_is_plausible(box: Box) -> None:
    """Where plausible is enough, each answer is for the moment it is given."""
    clock = SystemClock()
    right_ns, box.now_ns = box.now_ns, 0
    assert not clock.trusted
    box.now_ns = right_ns
    assert clock.trusted


def test_the_kernel_is_asked_once_a_second_at_most_and_never_when_it_has_said_yes(box: Box) -> None:
    """Trust is asked for with every batch, and the answer of the kernel is too dear for that."""
    clock = box.clock()
    for _ in range(1000):
        assert not clock.trusted
        box.wait(0.01)
    assert 10 <= box.asked <= 12
    box.is_synchronized = True
    box.wait(1.0)
    asked = box.asked
    assert all(clock.trusted for _ in range(1000))
    assert box.asked == asked + 1


@pytest.mark.parametrize("trust", ["plausible", "synchronized"])
def test_trust_costs_little(trust: clock_module.ClockTrust) -> None:
    """It is asked for with every batch, whatever the answer; measured are 0.1 to 0.4 us, and 5 us would be a fault."""
    clock = SystemClock(trust)
    assert min(timeit.repeat(lambda: clock.trusted, number=2000, repeat=5)) / 2000 < 5e-6


def test_the_kernels_answer_is_the_bound_of_its_error() -> None:
    """The real kernel is asked in a way that it answers, as a program of its own reads it from the same structure."""
    source = (
        "import ctypes\n"
        "class Timex(ctypes.Structure):\n"
        "    _fields_ = [('modes', ctypes.c_uint), *((name, ctypes.c_long) for name in ('offset', 'freq', 'maxerror')),"
        " ('rest', ctypes.c_char * 512)]\n"
        "timex = Timex()\n"
        "assert ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) >= 0\n"
        "print(timex.maxerror)\n"
    )
    told = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert kernel_is_synchronized() is (int(told.stdout) < 16_000_000)


def test_a_kernel_that_does_not_answer_is_an_error_at_the_start() -> None:
    """A clock that can never be trusted would mark every reading; the setting that asks for it is refused instead."""

    def forbidden() -> bool:
        raise ConfigError("the kernel does not say", where="gateway.clock_trust", remedy="Set `plausible`")

    with pytest.raises(ConfigError, match=r"gateway\.clock_trust: the kernel does not say"):
        SystemClock("synchronized", is_synchronized=forbidden)
    assert SystemClock("plausible", is_synchronized=forbidden).trusted


def test_a_boot_has_a_name_and_a_time_of_its_own() -> None:
    """Every clock of this machine gives the same name and the same time since the boot, until it is restarted."""
    first, second = SystemClock(), SystemClock()
    assert first.boot_id == second.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len(first.boot_id) == 36
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert before_ns <= first.uptime_ns() <= second.uptime_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_without_proc_a_boot_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error says what to mount; a made-up name would correct the times of another boot."""
    monkeypatch.setattr(clock_module, "_BOOT_ID", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"No such file or directory\. Mount /proc"):
        _ = SystemClock().boot_id


def test_a_stamp_says_what_can_be_corrected_later(box: Box) -> None:
    """A good time stands for itself; one that is not trusted has the time since the boot beside it."""
    assert stamp(SystemClock()) == Stamp(box.now_ns, True, None)
    assert stamp(box.clock()) == Stamp(box.now_ns, False, box.uptime_ns)


class SetWhileAsked(SystemClock):
    """A clock that a time service sets right after the n-th question to it."""

    def __init__(self, box: Box, questions: int) -> None:
        super().__init__()
        self._box = box
        self._questions = questions

    def _asked(self) -> None:
        self._questions -= 1
        if not self._questions:
            self._box.now_ns += 2 * EARLIEST_PLAUSIBLE_NS

    @property
    def trusted(self) -> bool:
        answer = super().trusted
        self._asked()
        return answer

    def now_ns(self) -> int:
        answer = super().now_ns()
        self._asked()
        return answer


@pytest.mark.parametrize("questions", [1, 2, 3])
def test_a_clock_that_is_set_amid_a_stamp_never_passes_a_wrong_time_for_a_good_one(box: Box, questions: int) -> None:
    """At whatever question it is set, a time of 1970 is marked."""
    box.now_ns = 0
    moment = stamp(SetWhileAsked(box, questions))
    assert moment.time_ns >= EARLIEST_PLAUSIBLE_NS or not moment.time_trusted
    assert moment.time_trusted == (moment.uptime_ns is None)


def test_the_offset_of_a_boot_is_the_wall_time_at_its_beginning(box: Box) -> None:
    """Unknown until the clock is trusted."""
    assert boot_offset_ns(SystemClock()) == box.now_ns - box.uptime_ns
    assert boot_offset_ns(box.clock()) is None


def test_the_offset_of_a_boot_is_not_spoilt_by_a_pause_in_reading_it(box: Box) -> None:
    """The process may be put to sleep between two readings; of several tries the quickest counts."""
    pauses_s = iter([0.5, 0.0, 3.0])

    class Paused(SystemClock):
        def now_ns(self) -> int:
            answer = super().now_ns()
            box.wait(next(pauses_s))
            return answer

    right_ns = box.now_ns - box.uptime_ns
    assert boot_offset_ns(Paused()) == right_ns
