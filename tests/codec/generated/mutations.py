"""Sound and broken frames of every packaged profile through its decoder, judged by everything written a second time.

What must hold for every frame: the decoder raises nothing and comes back in time; the frame is a sample, an answer or a
reject, and exactly one of them; it is accepted just if the slow reader, which shares no code with the compiled decoder
but the declaration, reads it, and with the same values; and of what is accepted, checksums and seals hold by
implementations of their own. A broken frame whose checksum happens to be right is no silent accept: any receiver takes
it.

Where a profile names code that decodes, the code is held to the first two.

CI runs a share of this in `test_mutations.py`. All of it, on all cores:

    python -m tests.codec.generated.mutations --frames 10000000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeAlias
from unittest import mock

import orjson

from edge_gateway.codec import Decoded, Profile, compile_profile, load_profile, profile_names
from edge_gateway.codec.frame_check import ChecksumSlot
from edge_gateway.codec.generated import corpus, corpus_keys
from edge_gateway.codec.generated.outline import plan_of
from edge_gateway.codec.payload_keys import PayloadKeys
from edge_gateway.codec.profile import AnyLayout
from edge_gateway.codec.structure import reader
from edge_gateway.codec.structure.plan import Plan
from edge_gateway.codec.text import TextFrame, TextLayout
from edge_gateway.codec.text.reading import read_text
from edge_gateway.records import Answer, Sample, Value

from .independent_checksums import independent_checksum
from .independent_seals import IndependentSeal

_BATCH_FRAMES = 200
_BATCH_LIMIT_S = 10.0
"""Of the process's own time, in which a batch takes some tenths at most. So long, and the decoder hangs."""
_FRAME_LIMIT_S = 1.0
"""For a single frame, when the one is looked for that hangs."""
_JOB_FRAMES = 25_000
_MOST_TOLD = 10

Decode: TypeAlias = Callable[[Sequence[bytes]], Decoded]


class DecoderHangs(Exception):
    """A batch was not decoded in time."""


@dataclass
class Account:
    """What became of the frames of one profile."""

    frames: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason."""
    crashes: list[str] = field(default_factory=list)
    """The frame in hexadecimal digits, and the error."""
    silent_accepts: list[str] = field(default_factory=list)
    """Frames that were accepted and should not have been."""
    wrong_rejects: list[str] = field(default_factory=list)
    """Frames that were rejected and are sound."""
    wrong_values: list[str] = field(default_factory=list)
    """Frames that were rightly accepted, and say something else to the slow reader."""
    lost: int = 0
    """Frames without a sample, an answer or a reject."""
    slowest_s: float = 0.0
    """The longest time that a frame took, on the average of its batch."""

    @property
    def is_good(self) -> bool:
        """Whether all that must hold did."""
        return not (self.crashes or self.silent_accepts or self.wrong_rejects or self.wrong_values or self.lost)

    def add(self, other: Account) -> None:
        """Take another account in."""
        self.frames += other.frames
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.crashes += other.crashes
        self.silent_accepts += other.silent_accepts
        self.wrong_rejects += other.wrong_rejects
        self.wrong_values += other.wrong_values
        self.lost += other.lost
        self.slowest_s = max(self.slowest_s, other.slowest_s)


class Job(NamedTuple):
    """Some frames of one profile."""

    profile: str
    seed: int
    frames: int


def run_job(job: Job) -> tuple[str, Account]:
    """Decode and judge; in a process of its own or not."""
    account = Account()
    for number, (judge, names) in enumerate(views := judges(load_profile(job.profile))):
        share = job.frames // len(views) + (number < job.frames % len(views))
        frames = corpus(judge.profile, job.seed, share, names)
        while batch := list(islice(frames, _BATCH_FRAMES)):
            account.add(judge.of(batch))
    return job.profile, account


def judges(profile: Profile) -> list[tuple[Judge, tuple[str, ...] | None]]:
    """Who judges a profile's frames, and which kinds to draw for each: of a polled device, each answer alone."""
    keys = corpus_keys(profile)
    codec = compile_profile(profile, keys)
    if not profile.polls:
        return [(Judge(profile, codec.decode, keys, profile.heard_layouts), None)]
    heard = [name for name in profile.frames if not profile.is_request(name)]
    return [(Judge(profile, codec.decoder_of((name,)), keys, [profile.layouts[name]]), (name,)) for name in heard]


class _Expected(NamedTuple):
    """What a frame says to the slow reader."""

    is_sample: bool
    record: Sample | Answer


class Judge:
    """Decodes frames and holds every verdict against a second opinion.

    Args:
        profile: whose frames.
        decode: the decoder.
        keys: of what is encrypted.
        heard: the kinds of frames that the decoder knows.
    """

    def __init__(self, profile: Profile, decode: Decode, keys: PayloadKeys, heard: Sequence[AnyLayout]) -> None:
        self.profile = profile
        self.decode = decode
        self._keys = keys
        self._kinds = [(layout, plan_of(profile, layout.name)) for layout in heard]

    def of(self, frames: Sequence[bytes]) -> Account:
        """What became of some frames."""
        account = Account(frames=len(frames))
        began_s = time.perf_counter()
        try:
            with _time_limit(_BATCH_LIMIT_S):
                decoded = self.decode(frames)
                orjson.dumps([sample.values for sample in decoded.samples])
                orjson.dumps([answer.fields for answer in decoded.answers])
        except Exception as error:  # noqa: BLE001 -- whatever the decoder raises is what is looked for
            account.crashes.append(f"{self._culprit(frames)}: {error!r}")
            return account
        account.slowest_s = (time.perf_counter() - began_s) / len(frames)
        account.accepted = len(decoded.samples) + len(decoded.answers)
        account.rejected = Counter(reject.reason for reject in decoded.rejects)
        if self.profile.decoder is not None:
            return account  # a frame may well hold no sample, or several
        account.lost = len(frames) - account.accepted - len(decoded.rejects)
        if not account.lost:
            with mock.patch.object(reader, "PayloadSeal", IndependentSeal):
                self._compare(frames, decoded, account)
        return account

    def _compare(self, frames: Sequence[bytes], decoded: Decoded, account: Account) -> None:
        samples, answers, rejects = iter(decoded.samples), iter(decoded.answers), iter(decoded.rejects)
        reject = next(rejects, None)
        for frame in frames:
            expected = self.expected(frame)
            if reject is not None and frame == reject.data:
                reject = next(rejects, None)
                if expected is not None:
                    account.wrong_rejects.append(frame.hex())
                continue
            # What was accepted by mistake is in one of the two lists, and only the decoder knows in which.
            is_sample = bool(self.decode([frame]).samples) if expected is None else expected.is_sample
            found = next(samples, None) if is_sample else next(answers, None)
            if expected is None:
                account.silent_accepts.append(frame.hex())
            elif _as_json(found) != _as_json(expected.record):
                account.wrong_values.append(frame.hex())

    def expected(self, frame: bytes) -> _Expected | None:
        """What the frame says; None if it has to be rejected."""
        for layout, plan in self._kinds:
            found = self._read_text(layout, frame) if plan is None else self._read(layout, plan, frame)
            if found is not None:
                return found
        return None

    def _read(self, layout: AnyLayout, plan: Plan, frame: bytes) -> _Expected | None:
        # Most broken frames end here, which is what makes ten million of them a matter of minutes.
        if not plan.fits(frame) or not _check_holds(plan.placed_check(len(frame)), frame):
            return None
        read = reader.read_frame(plan, frame, self.profile.identity, self.profile.sequence, self._keys)
        return None if read.reason else self._record(layout.name, read.address, read.sequence, dict(read.values))

    def _read_text(self, layout: AnyLayout, frame: bytes) -> _Expected | None:
        if not isinstance(layout, TextLayout):
            raise TypeError(f"{layout.name} is neither bytes nor text")
        report = read_text(layout.frame, frame)
        if report.reason or not _text_check_holds(layout.frame, frame):
            return None
        values = dict(report.values)
        address, sequence = (values.pop(role or "", None) for role in (self.profile.identity, self.profile.sequence))
        return self._record(layout.name, address, sequence, values)

    def _record(self, name: str, address: Value, sequence: Value, values: dict[str, Value]) -> _Expected:
        who = address if isinstance(address, int | str) else None
        if self.profile.frames[name].role != "sample":
            return _Expected(False, Answer(name, who, values))
        return _Expected(True, Sample(who, sequence if isinstance(sequence, int) else None, values))

    def _culprit(self, frames: Sequence[bytes]) -> str:
        for frame in frames:
            try:
                with _time_limit(_FRAME_LIMIT_S):
                    self.decode([frame])
            except Exception:  # noqa: BLE001 -- as above; it is told by the caller
                return frame.hex()
        return "no single frame"


def _check_holds(check: ChecksumSlot | None, frame: bytes) -> bool:
    if check is None:
        return True
    stated = int.from_bytes(frame[check.start : check.end], check.endian)
    return independent_checksum(check.name, frame[check.covers_start : check.covers_end]) == stated


def _text_check_holds(frame: TextFrame, data: bytes) -> bool:
    """Whether the number behind the end of a text is the check of what is before it, however it was found."""
    form = frame.form
    check = form.checksum
    end = data.rfind(form.end_bytes)
    if check is None or getattr(form, "asides", None) is not None:
        return True  # what is thrown in between is no part of the check, and only the reader knows where it is
    if check.form == "bytes":
        end = len(data) - check.checked_by.size_bytes - len(form.end_bytes)
    stated = data[end + len(form.end_bytes) :]
    covered = data[len(form.start_bytes) : end] if check.covers == "between" else data[: end + len(form.end_bytes)]
    number = int(stated, 16) if check.form == "hex" else int.from_bytes(stated, check.endian)
    if check.form == "hex" and check.endian == "little":
        number = int.from_bytes(bytes.fromhex(stated.decode()), "little")
    return independent_checksum(check.checked_by.name, covered) == number


def _as_json(record: Sample | Answer | None) -> bytes:
    """A record with names in an order of their own, as JSON tells values apart: true is not 1, and 1.0 is not 1."""
    return orjson.dumps(None if record is None else tuple(record), option=orjson.OPT_SORT_KEYS)


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    def out_of_time(_: int, __: FrameType | None) -> None:
        raise DecoderHangs(f"not decoded within {limit_s:g} s")

    before = signal.signal(signal.SIGPROF, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def jobs(profiles: Sequence[str], frames: int, seed: int) -> list[Job]:
    """The work in pieces, about as many frames for each profile."""
    pieces: list[Job] = []
    for number, name in enumerate(profiles):
        left = frames // len(profiles) + (number < frames % len(profiles))
        while left:
            count = min(left, _JOB_FRAMES)
            pieces.append(Job(name, seed + len(pieces), count))
            left -= count
    return pieces


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("profiles", nargs="*", help="names or files; all packaged profiles if left out")
    parser.add_argument("--frames", type=int, default=1_000_000, help="over all profiles")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    names = arguments.profiles or profile_names()
    accounts = {name: Account() for name in names}
    began_s = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for name, account in pool.imap_unordered(run_job, jobs(names, arguments.frames, arguments.seed)):
            accounts[name].add(account)
    seconds = time.monotonic() - began_s
    _show(accounts, seconds)
    if arguments.json is not None:
        result = {"seconds": seconds, "profiles": {name: vars(account) for name, account in accounts.items()}}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if all(account.is_good for account in accounts.values()) else 1)


def _show(accounts: dict[str, Account], seconds: float) -> None:
    total = Account()
    for account in accounts.values():
        total.add(account)
    columns = ("frames", "accepted", "crashes", "silent", "wrong rejects", "wrong values", "lost", "slowest us")
    print(f"{'profile':<24}" + "".join(f"{column:>14}" for column in columns) + "  rejected")
    for name, each in [*accounts.items(), ("all", total)]:
        figures = (
            each.frames,
            each.accepted,
            len(each.crashes),
            len(each.silent_accepts),
            len(each.wrong_rejects),
            len(each.wrong_values),
            each.lost,
            round(each.slowest_s * 1e6),
        )
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(each.rejected.items()))
        print(f"{name:<24}" + "".join(f"{figure:>14,}" for figure in figures) + f"  {reasons}")
    print(f"{seconds:.0f} s, {total.frames / seconds:,.0f} frames/s")
    for what in ("crashes", "silent_accepts", "wrong_rejects", "wrong_values"):
        for name, each in accounts.items():
            for found in getattr(each, what)[:_MOST_TOLD]:
                print(f"{what}: {name} {found}")


if __name__ == "__main__":
    main()
