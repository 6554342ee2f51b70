"""Faults by script: what goes wrong at the local cloud and when, written down once and the same at every run.

```yaml
seed: 7
faults:
  - {at_s: 5, kind: freeze, for_s: 10}
  - {at_s: {from: 20, to: 40}, kind: close, device: sensor-1}
  - {at_s: 50, kind: pubacks, answer: never, for_s: 5}
```

Times are seconds from the script's start. Where a time is a span, the seed decides. A script is worked out into steps
before it starts, so that what will happen can be read beforehand (`schedule`). Faults of different kinds may overlap;
of one kind, the last to begin decides how, and the last to end puts things right.
"""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import override  # in `typing` from Python 3.12 on

from edge_gateway.config.problems import problems
from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import BenchError
from edge_gateway.testbench.certificates import LocalAuthority
from edge_gateway.testbench.cloud.front_door import FrontDoor
from edge_gateway.testbench.cloud.hub import LocalHub

_log = structlog.get_logger()

MAX_SCRIPT_BYTES: Final = 1 << 20
_FROZEN = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


@dataclass(frozen=True, slots=True)
class Target:
    """What a script's faults hit."""

    door: FrontDoor
    hub: LocalHub
    authority: LocalAuthority
    """Signs the certificates that clients must refuse."""


class Span(BaseModel):
    """A time between two others, drawn by the seed."""

    model_config = _FROZEN

    earliest_s: float = Field(alias="from", ge=0)
    latest_s: float = Field(alias="to", ge=0)


class _Fault(BaseModel):
    model_config = _FROZEN

    at_s: float | Span = Field(description="When, in seconds from the script's start.")

    @property
    def lasts_s(self) -> float | None:
        """How long; None for a fault of a moment."""
        return None

    @abstractmethod
    def begin(self, target: Target) -> None:
        """Let it go wrong."""

    def end(self, target: Target) -> None:
        """Put it right."""


class _LastingFault(_Fault):
    for_s: float = Field(gt=0, description="How long, in seconds.")

    @property
    @override
    def lasts_s(self) -> float | None:
        return self.for_s


class Refuse(_LastingFault):
    """Refuses new TCP connections; those there are stay."""

    kind: Literal["refuse"] = "refuse"

    @override
    def begin(self, target: Target) -> None:
        target.door.refuse(True)

    @override
    def end(self, target: Target) -> None:
        target.door.refuse(False)


class Close(_Fault):
    """Cuts the connection of one client, or all, without a word."""

    kind: Literal["close"] = "close"
    device: str | None = Field(None, description="Whose; `device/module` for a module's; everybody's if left out.")

    @override
    def begin(self, target: Target) -> None:
        target.door.drop_connections(self.device)


class Freeze(_LastingFault):
    """Keeps connections open and neither reads nor answers."""

    kind: Literal["freeze"] = "freeze"

    @override
    def begin(self, target: Target) -> None:
        target.door.freeze(True)

    @override
    def end(self, target: Target) -> None:
        target.door.freeze(False)


class Delay(_LastingFault):
    """Says everything later."""

    kind: Literal["delay"] = "delay"
    delay_s: float = Field(gt=0, description="By how much.")

    @override
    def begin(self, target: Target) -> None:
        target.door.faults.delay_s = self.delay_s

    @override
    def end(self, target: Target) -> None:
        target.door.faults.delay_s = 0.0


class Loss(_LastingFault):
    """Drops messages from clients unseen: they are neither received nor confirmed."""

    kind: Literal["loss"] = "loss"
    share: float = Field(gt=0, le=1, description="Of the messages, 0 to 1.")

    @override
    def begin(self, target: Target) -> None:
        target.door.faults.loss = self.share

    @override
    def end(self, target: Target) -> None:
        target.door.faults.loss = 0.0


class Pubacks(_LastingFault):
    """Takes messages in and confirms them late, twice, or never."""

    kind: Literal["pubacks"] = "pubacks"
    answer: Literal["late", "twice", "never"] = Field(description="How messages are confirmed.")
    delay_s: float = Field(1.0, gt=0, description="How much later, with `late`.")

    @override
    def begin(self, target: Target) -> None:
        faults = target.door.faults
        faults.puback_delay_s = self.delay_s if self.answer == "late" else 0.0
        faults.puback_copies = {"late": 1, "twice": 2, "never": 0}[self.answer]

    @override
    def end(self, target: Target) -> None:
        target.door.faults.puback_delay_s = 0.0
        target.door.faults.puback_copies = 1


class ThrottleTo(_LastingFault):
    """Holds the hub to the rates and quota of a tier."""

    kind: Literal["throttle"] = "throttle"
    tier: Literal["F1", "B1", "B2", "B3", "S1", "S2", "S3"] = Field(description="Whose rates and quota hold.")
    units: int = Field(1, ge=1, description="How many of it.")

    @override
    def begin(self, target: Target) -> None:
        target.hub.use_tier(self.tier, self.units)

    @override
    def end(self, target: Target) -> None:
        target.hub.use_tier(None)


class ExpireTokens(_Fault):
    """Cuts clients off as at the end of their tokens."""

    kind: Literal["expire-tokens"] = "expire-tokens"
    device: str | None = Field(None, description="Whose; everybody's if left out.")

    @override
    def begin(self, target: Target) -> None:
        target.door.expire_tokens(self.device)


class RotateKeys(_Fault):
    """Gives a device new keys and cuts its connection, so that it meets the change at once."""

    kind: Literal["rotate-keys"] = "rotate-keys"
    device: str = Field(description="Whose.")

    @override
    def begin(self, target: Target) -> None:
        target.hub.rotate_keys(self.device)


class Certificate(_LastingFault):
    """Shows new clients a certificate they must refuse."""

    kind: Literal["certificate"] = "certificate"
    shown: Literal["wrong-name", "expired", "unknown-ca"] = Field(description="What is wrong with it.")

    @override
    def begin(self, target: Target) -> None:
        names = ["wrong.invalid"] if self.shown == "wrong-name" else target.door.names
        authority = LocalAuthority() if self.shown == "unknown-ca" else target.authority
        target.door.present(authority.server_certificate(names, expired=self.shown == "expired"))

    @override
    def end(self, target: Target) -> None:
        target.door.present(None)


class Restart(_LastingFault):
    """Stops the service and starts it again, with or without what it remembers of devices."""

    kind: Literal["restart"] = "restart"
    state: Literal["kept", "lost"] = Field("kept", description="Lost: twins, queues and sessions; never identities.")

    @override
    def begin(self, target: Target) -> None:
        target.door.refuse(True)
        target.door.drop_connections()
        if self.state == "lost":
            target.hub.forget_state()

    @override
    def end(self, target: Target) -> None:
        target.door.refuse(False)


AnyFault: TypeAlias = Annotated[
    Refuse | Close | Freeze | Delay | Loss | Pubacks | ThrottleTo | ExpireTokens | RotateKeys | Certificate | Restart,
    Field(discriminator="kind"),
]


class FaultScript(BaseModel):
    """A script, as it is written."""

    model_config = _FROZEN

    seed: int = Field(0, description="Decides about times that are spans.")
    faults: tuple[AnyFault, ...] = Field(description="In any order.")


class Step(NamedTuple):
    """One fault's begin or end at one time."""

    at_s: float
    fault: AnyFault
    begins: bool


def load_fault_script(path: Path) -> FaultScript:
    """Read a script.

    Raises:
        BenchError: the file cannot be read, or is no script; the text names each key, its value and one that would do.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_SCRIPT_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot be read: {error}", where=str(path), remedy="Name a text file") from error
    if len(text) > MAX_SCRIPT_BYTES:
        raise BenchError(f"is larger than {MAX_SCRIPT_BYTES} bytes", where=str(path), remedy="Is it the right file?")
    document = parse_yaml(text, where=str(path), error_type=BenchError)
    try:
        return FaultScript.model_validate(document)
    except ValidationError as error:
        found = "; ".join(problems(error, FaultScript))
        raise BenchError(found, where=str(path), remedy="See docs/how-to/develop-without-the-cloud.md") from error


def schedule(script: FaultScript) -> Sequence[Step]:
    """Work a script out: its steps in the order of their times. The same script gives the same steps."""
    rng = random.Random(script.seed)  # noqa: S311 - decides about faults, no secret
    steps = []
    for fault in script.faults:
        match fault.at_s:
            case Span(earliest_s=earliest_s, latest_s=latest_s):
                at_s = rng.uniform(earliest_s, latest_s)
            case at_s:
                pass
        steps.append(Step(at_s, fault, True))
        if fault.lasts_s is not None:
            steps.append(Step(at_s + fault.lasts_s, fault, False))
    return sorted(steps, key=lambda step: step.at_s)


async def play(script: FaultScript, target: Target) -> None:
    """Let a script's faults happen; returns after the last step. Cancelled, it puts right what is wrong."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    under_way: Counter[str] = Counter()
    last: dict[str, AnyFault] = {}
    try:
        for step in schedule(script):
            await asyncio.sleep(started_s + step.at_s - loop.time())
            kind = step.fault.kind
            if step.begins:
                _log.info("testbench.fault.begins", kind=kind, at_s=step.at_s)
                step.fault.begin(target)
                if step.fault.lasts_s is not None:
                    under_way[kind] += 1
                    last[kind] = step.fault
            else:
                under_way[kind] -= 1
                if not under_way[kind]:
                    del last[kind]
                    _log.info("testbench.fault.ends", kind=kind, at_s=step.at_s)
                    step.fault.end(target)
    finally:
        for fault in last.values():
            fault.end(target)
