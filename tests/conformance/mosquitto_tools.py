"""mosquitto's command line: `mosquitto_pub` and `mosquitto_sub`.

Each run is a connection of its own, so that there is none that could be lost, and only one of them listens at a time.
(`mosquitto_rr` could ask for a twin, but takes no wildcard for the answer's topic.)
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from edge_gateway.records import Value

from .by_hand import (
    COMMANDS,
    DESIRED_PATCHES,
    Arrived,
    format_bag,
    login,
    parameters_of,
    read_message,
    read_patch,
    topics_of,
)
from .client import Access, Client, Ending, Enrolment, Feature, Inbox, Lost, Message, NotAuthorised, Registration

_TOOLS = ("mosquitto_pub", "mosquitto_sub", "stdbuf")
_NOT_AUTHORISED = 5
_LONGEST_LINE_BYTES = 1024 * 1024
"""Payloads are printed in hexadecimal."""


class MosquittoTools:
    """The tools, over MQTT; they know no WebSocket."""

    name = "mosquitto"
    features = frozenset(
        {
            Feature.TEXT,
            Feature.COMMANDS,
            Feature.NULL,
            Feature.DESIRED,
            Feature.MODEL,
            Feature.MODULE,
            Feature.CERTIFICATE,
            Feature.MODULE_CERTIFICATE,
        }
    )

    def missing(self) -> str:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        return f"{', '.join(missing)} (Debian package mosquitto-clients)" if missing else ""

    @property
    def soon_renewed_s(self) -> int:
        raise NotImplementedError

    async def install(self) -> None:
        pass

    async def client(self, access: Access) -> Client:
        return MosquittoClient(access)

    async def register(self, enrolment: Enrolment) -> Registration:
        raise NotImplementedError


class MosquittoClient(Client):
    """A device or module whose every act is a process."""

    def __init__(self, access: Access) -> None:
        self._own = topics_of(access)
        self._directory = tempfile.TemporaryDirectory(prefix="conformance-")
        self._write_options(access)
        self._listening: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await self._run("mosquitto_sub", "-t", f"{DESIRED_PATCHES}#", "-E")

    async def send(self, message: Message) -> None:
        await self._publish(format_bag(message.properties, message.system), message.body)

    async def send_output(self, output: str, message: Message) -> None:
        await self._publish(format_bag(message.properties, {**message.system, "output-name": output}), message.body)

    async def close(self) -> None:
        if self._listening is not None and self._reading is not None:
            self._listening.terminate()
            await self._reading
            await self._listening.wait()
        self._directory.cleanup()

    async def commands(self, ending: Ending = Ending.COMPLETE) -> Inbox[Message]:
        inbox: Inbox[Message] = Inbox()
        await self._listen(
            f"{self._own}{COMMANDS}#", lambda topic, body: inbox.put(read_message(topic.rpartition("/")[2], body))
        )
        return inbox

    async def desired_patches(self) -> Inbox[dict[str, Value]]:
        inbox: Inbox[dict[str, Value]] = Inbox()
        await self._listen(f"{DESIRED_PATCHES}#", lambda topic, body: inbox.put(read_patch(parameters_of(topic), body)))
        return inbox

    def _write_options(self, access: Access) -> None:
        """Where the tools look for options: a token does not belong among a process's arguments."""
        folder = Path(self._directory.name)
        told = login(access)
        (folder / "ca.pem").write_text(told.ca_pem)
        options = {
            "-V": "mqttv311",
            "-h": told.address,
            "-p": "8883",
            "--cafile": folder / "ca.pem",
            "-i": told.client_id,
            "-u": told.user_name,
            "-q": "1",
        }
        if told.password is not None:
            options["-P"] = told.password
        if told.certificate is not None:
            (folder / "chain.pem").write_text(told.certificate.chain_pem)
            (folder / "key.pem").write_text(told.certificate.key_pem)
            options |= {"--cert": folder / "chain.pem", "--key": folder / "key.pem"}
        text = "".join(f"{option} {value}\n" for option, value in options.items())
        for tool in ("mosquitto_pub", "mosquitto_sub"):
            (folder / tool).write_text(text)

    async def _publish(self, bag: str, body: bytes) -> None:
        payload = Path(self._directory.name, "payload")
        payload.write_bytes(body)
        await self._run("mosquitto_pub", "-t", f"{self._own}/messages/events/{bag}", "-f", str(payload))

    async def _run(self, *arguments: str) -> None:
        process = await self._start(*arguments)
        output, _ = await process.communicate()
        if process.returncode == _NOT_AUTHORISED:
            raise NotAuthorised(output.decode())
        if process.returncode:
            raise Lost(output.decode())

    async def _listen(self, topic_filter: str, arrived: Arrived) -> None:
        # Its debug lines tell of the subscription; without stdbuf they would come when a pipe's buffer is full.
        process = await self._start("stdbuf", "-oL", "mosquitto_sub", "-d", "-F", "message %x %t", "-t", topic_filter)
        assert process.stdout is not None
        self._listening = process
        while not (line := await process.stdout.readline()).startswith(b"Subscribed"):
            if not line:
                raise Lost(f"mosquitto_sub ended with {await process.wait()}")
        self._reading = asyncio.create_task(_read(process.stdout, arrived), name="mosquitto-reading")

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *arguments,
            env={**os.environ, "XDG_CONFIG_HOME": self._directory.name},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LONGEST_LINE_BYTES,
        )


async def _read(lines: asyncio.StreamReader, arrived: Arrived) -> None:
    async for line in lines:
        kind, _, rest = line.decode().rstrip("\n").partition(" ")
        if kind == "message":
            payload, _, topic = rest.partition(" ")
            arrived(topic, bytes.fromhex(payload))
