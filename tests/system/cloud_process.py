"""A local hub and its provisioning service in a process of their own, so that what they take is not the gateway's.

The process is `python -m tests.system.cloud_process DIRECTORY ADDRESS`. On standard output it says a JSON document a
line: where it is, and then each message that came. To a line on standard input it answers with what it has counted;
at the end of standard input it ends.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import orjson

from edge_gateway.observability.log import configure_log
from edge_gateway.testbench import ReceivedMessage
from edge_gateway.testbench.cloud.local_cloud import LocalCloud
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, drawn_keys

from .receiver import Receiver

GROUP: Final = "sensors"
CHECKOUT: Final = Path(__file__).parents[2]
_MOST_LINE_BYTES: Final = 1 << 20


class Counted(NamedTuple):
    """By the hub, since it started."""

    connections: int
    """Let in, by MQTT."""
    denied: int
    """Not let in: a wrong signature is one of these."""


class CloudProcess:
    """The process. Use it as an async context manager.

    Args:
        directory: for its state and certificates.
        address: where it listens.
        receiver: gets what comes.
    """

    def __init__(self, directory: Path, address: str, receiver: Receiver) -> None:
        self.address = address
        self.ca_file = directory / "bench-ca.pem"
        self.https_port = 0
        self.id_scope = ""
        self.group_key = b""
        self.receiver = receiver
        self._directory = directory
        self._answers: asyncio.Queue[Counted] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._process: Process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, str(self._directory), self.address),
            cwd=CHECKOUT,
            stdin=PIPE,
            stdout=PIPE,
            limit=_MOST_LINE_BYTES,
        )
        assert self._process.stdout is not None
        started = orjson.loads(await self._process.stdout.readline())
        self.https_port = started["https_port"]
        self.id_scope = started["id_scope"]
        self.group_key = base64.b64decode(started["group_key"])
        self._listening = asyncio.create_task(self._listen(self._process.stdout), name="cloud")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._listening
        await self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def counted(self) -> Counted:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return await self._answers.get()

    async def _listen(self, output: asyncio.StreamReader) -> None:
        while line := await output.readline():
            document = orjson.loads(line)
            if "message" in document:
                device, message_id, body = document["message"]
                self.receiver.add(ReceivedMessage(device, message_id, {}, {}, body.encode(), 0.0, 0))
            else:
                self._answers.put_nowait(Counted(**document))


def _say(document: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()


async def _serve(directory: Path, address: str) -> None:
    def show(message: ReceivedMessage) -> None:
        _say({"message": [message.device_id, message.message_id, message.body.decode()]})

    async with LocalCloud(
        directory=directory, address=address, https_port=0, amqp_port=None, on_message=show, keep_messages=0
    ) as cloud:
        # Azure has each device ask again after 3 s: a thousand would take six minutes, all of them spent waiting.
        cloud.dps.retry_after_s = 0
        keys = drawn_keys()
        cloud.dps.add_group(EnrolmentGroup(GROUP, keys))
        _say({"https_port": cloud.door.ports()["https"], "id_scope": cloud.dps.id_scope, "group_key": keys.primary})
        asked = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
        while await asked.readline():
            counted = Counted(cloud.hub.statistics.connections, cloud.door.statistics.denied)
            _say(counted._asdict())


if __name__ == "__main__":
    configure_log("warning", as_json=False)
    asyncio.run(_serve(Path(sys.argv[1]), sys.argv[2]))
