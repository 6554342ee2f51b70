"""The ledger has to know the reason for every frame that did not arrive, and to say so when there is none."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.testbench.frame_ledger import IN_TRANSIT_S, MOST_FAULTS, FrameLedger


def values(number: int) -> dict[str, int]:
    return {"number": number}


def sent_frames(*numbers: int, opening: int = 1, at_s: float = 0.0) -> FrameLedger:
    ledger = FrameLedger("sensor")
    for number in numbers:
        ledger.wrote(opening, at_s, values(number))
    return ledger


def test_frames_that_all_arrive_leave_nothing_to_explain() -> None:
    """Every frame arrived in order, so nothing is awaited, lost or missing."""
    ledger = sent_frames(1, 2, 3)
    assert ledger.awaited == 3
    for seq in (1, 2, 3):
        ledger.arrive(seq, values(seq))
    ledger.settle()
    assert (ledger.sent, ledger.arrived, ledger.awaited, ledger.lost_good, ledger.missing) == (3, 3, 0, 0, 0)
    assert ledger.faults == []


def test_the_last_frames_before_a_close_may_be_cut_off() -> None:
    """Frames sent just before the port closed were on the wire; that is a loss with a known reason."""
    ledger = sent_frames(1, 2, 3)
    ledger.closed(1, 0.1)
    ledger.wrote(2, 1.0, values(4))
    assert ledger.awaited == 1
    ledger.arrive(1, values(1))
    ledger.arrive(2, values(4))
    assert (ledger.lost_cut_off, ledger.missing) == (2, 0)
    assert ledger.faults == []


def test_a_frame_before_one_that_arrived_has_no_excuse() -> None:
    """Within an opening frames stay in order, so a hole is the gateway's loss even if the port closed at once."""
    ledger = sent_frames(1, 2, 3)
    ledger.closed(1, 0.1)
    ledger.arrive(1, values(1))
    ledger.arrive(2, values(3))
    assert (ledger.lost_cut_off, ledger.missing) == (0, 1)
    assert "never came, though one sent after it did" in ledger.faults[0]


def test_a_frame_sent_long_before_the_close_has_no_excuse() -> None:
    """A gateway that had the port open for longer than a frame may be in transit must have kept the frame."""
    ledger = sent_frames(1)
    ledger.closed(1, IN_TRANSIT_S + 0.5)
    ledger.settle()
    assert (ledger.lost_cut_off, ledger.missing) == (0, 1)
    assert "though the port stayed open for 2.5 s more" in ledger.faults[0]


def test_a_frame_that_never_came_over_an_open_port_has_no_excuse() -> None:
    """A port that stayed open to the end cuts nothing off."""
    ledger = sent_frames(1)
    ledger.settle()
    assert ledger.missing == 1
    assert "though the port stayed open" in ledger.faults[0]


def test_a_reading_nobody_sent_is_a_fault() -> None:
    """What arrives must be one of the frames on their way: no other values, no second time, no earlier one."""
    ledger = sent_frames(1, 2)
    ledger.arrive(1, values(2))
    ledger.arrive(2, values(2))
    ledger.arrive(3, values(1))
    ledger.arrive(4, values(7))
    assert ledger.arrived == 1
    assert len([fault for fault in ledger.faults if "none of the frames on their way" in fault]) == 3


def test_frames_that_were_never_written_are_known_to_be_lost() -> None:
    """A closed port and a gateway that does not read are reasons of their own."""
    ledger = FrameLedger("sensor")
    ledger.sent_into_void()
    ledger.found_no_room()
    ledger.settle()
    assert (ledger.sent, ledger.lost_closed, ledger.lost_unread, ledger.lost_good) == (2, 1, 1, 2)
    assert ledger.faults == []


def test_a_broken_frame_was_read_if_the_good_one_behind_it_was() -> None:
    """Of broken frames before a frame that was cut off nobody can tell; the others must have been rejected."""
    ledger = FrameLedger("sensor")
    ledger.wrote(1, 0.0, values(1), broken_before=1)
    ledger.wrote(1, 0.0, values(2), broken_before=1)
    ledger.closed(1, 0.1)
    ledger.arrive(1, values(1))
    ledger.settle()
    assert (ledger.sent, ledger.broken, ledger.broken_read, ledger.broken_cut_off) == (4, 2, 1, 1)


def test_the_list_of_faults_is_bounded() -> None:
    """A gateway that loses everything is told so a few times, and counted to the end."""
    ledger = sent_frames(*range(10 * MOST_FAULTS))
    ledger.settle()
    assert len(ledger.faults) == MOST_FAULTS
    assert ledger.missing == 10 * MOST_FAULTS


@given(
    st.lists(
        st.tuples(st.integers(min_value=0, max_value=6), st.integers(min_value=0, max_value=6)), min_size=1, max_size=6
    )
)
def test_openings_that_lose_only_their_ends_never_look_like_a_fault(openings: list[tuple[int, int]]) -> None:
    """However many openings, and whatever part of each arrives from its beginning on, the account balances exactly."""
    ledger = FrameLedger("sensor")
    numbers = itertools.count()
    arriving: list[dict[str, int]] = []
    for opening, (arrives, is_cut_off) in enumerate(openings, start=1):
        frames = [values(next(numbers)) for _ in range(arrives + is_cut_off)]
        for frame in frames:
            ledger.wrote(opening, 10.0 * opening, frame)
        arriving += frames[:arrives]
        ledger.closed(opening, 10.0 * opening + 1)
    for seq, frame in enumerate(arriving, start=1):
        ledger.arrive(seq, frame)
    ledger.settle()
    assert ledger.faults == []
    assert ledger.arrived == len(arriving)
    assert ledger.lost_cut_off == sum(is_cut_off for _, is_cut_off in openings)
    assert ledger.sent == ledger.arrived + ledger.lost_good
