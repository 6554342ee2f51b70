"""Sound and broken frames of every packaged profile through its decoder, judged by a checksum written a second time.

What must hold for every frame: the decoder raises nothing and comes back; the frame is a sample, an answer or a reject,
and exactly one of them; what it accepts has the length, the constant bytes and, where there is one, the checksum of its
frame; what it rejects has not. A broken frame whose checksum happens to be right is no silent accept: any receiver
takes it.

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import orjson

from edge_gateway.codec import Codec, compile_profile, load_profile, profile_names
from edge_gateway.codec.generated import corpus
from edge_gateway.codec.layout import Layout

from .independent_checksums import independent_checksum

_BATCH_FRAMES = 500
_BATCH_LIMIT_S = 10.0
"""A batch takes some 2 ms. So long, and the decoder hangs."""
_FRAME_LIMIT_S = 1.0
"""For a single frame, when the one is looked for that hangs."""
_JOB_FRAMES = 50_000


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
    lost: int = 0
    """Frames without a sample, an answer or a reject."""

    @property
    def is_good(self) -> bool:
        """Whether all that must hold did."""
        return not (self.crashes or self.silent_accepts or self.wrong_rejects or self.lost)

    def add(self, other: Account) -> None:
        """Take another account in."""
        self.frames += other.frames
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.crashes += other.crashes
        self.silent_accepts += other.silent_accepts
        self.wrong_rejects += other.wrong_rejects
        self.lost += other.lost


class Job(NamedTuple):
    """Some frames of one profile."""

    profile: str
    seed: int
    frames: int


def run_job(job: Job) -> tuple[str, Account]:
    """Decode and judge; in a process of its own or not."""
    profile = load_profile(job.profile)
    codec = compile_profile(profile)
    heard = profile.heard_layouts
    account = Account()
    frames = corpus(profile, job.seed, job.frames)
    while batch := list(islice(frames, _BATCH_FRAMES)):
        account.add(judge(codec, heard, batch))
    return job.profile, account


def judge(codec: Codec, heard: Sequence[Layout], frames: Sequence[bytes]) -> Account:
    """Decode a batch and hold every verdict against the layouts and the independent checksum."""
    account = Account(frames=len(frames))
    try:
        with _time_limit(_BATCH_LIMIT_S):
            decoded = codec.decode(frames)
            orjson.dumps([sample.values for sample in decoded.samples])
            orjson.dumps([answer.fields for answer in decoded.answers])
    except Exception as error:  # noqa: BLE001 -- whatever the decoder raises is what is looked for
        account.crashes.append(f"{_culprit(codec, frames)}: {error!r}")
        return account
    account.accepted = len(decoded.samples) + len(decoded.answers)
    account.rejected = Counter(reject.reason for reject in decoded.rejects)
    account.lost = len(frames) - account.accepted - len(decoded.rejects)
    rejects = iter(decoded.rejects)
    reject = next(rejects, None)
    for frame in frames:
        sound = is_sound(heard, frame)
        if reject is not None and frame == reject.data:
            # `value`: length, constants and checksum hold, and a field says what none may say.
            if sound and reject.reason != "value":
                account.wrong_rejects.append(frame.hex())
            reject = next(rejects, None)
        elif not sound:
            account.silent_accepts.append(frame.hex())
    return account


def is_sound(heard: Sequence[Layout], frame: bytes) -> bool:
    """Whether some layout has this frame's length and constants, and its checksum holds if it has one."""
    for layout in heard:
        if layout.fits(frame):
            check = layout.checksum
            if check is None:
                return True
            stated = int.from_bytes(frame[check.start : check.end], check.endian)
            if independent_checksum(check.name, frame[check.covers_start : check.covers_end]) == stated:
                return True
    return False


def _culprit(codec: Codec, frames: Sequence[bytes]) -> str:
    for frame in frames:
        try:
            with _time_limit(_FRAME_LIMIT_S):
                codec.decode([frame])
        except Exception:  # noqa: BLE001 -- as above; it is told by the caller
            return frame.hex()
    return "no single frame"


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    def out_of_time(_: int, __: FrameType | None) -> None:
        raise DecoderHangs(f"not decoded within {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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
    columns = ("frames", "accepted", "crashes", "silent", "wrong rejects", "lost")
    print(f"{'profile':<24}" + "".join(f"{column:>14}" for column in columns) + "  rejected")
    for name, each in [*accounts.items(), ("all", total)]:
        figures = (
            each.frames,
            each.accepted,
            len(each.crashes),
            len(each.silent_accepts),
            len(each.wrong_rejects),
            each.lost,
        )
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(each.rejected.items()))
        print(f"{name:<24}" + "".join(f"{figure:>14,}" for figure in figures) + f"  {reasons}")
    print(f"{seconds:.0f} s, {total.frames / seconds:,.0f} frames/s")
    for what, found in (
        ("crash", total.crashes),
        ("silent accept", total.silent_accepts),
        ("wrong reject", total.wrong_rejects),
    ):
        for each_found in found[:10]:
            print(f"{what}: {each_found}")


if __name__ == "__main__":
    main()
