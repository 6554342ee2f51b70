"""A plain broker: topics, passwords, and connections that come up too late."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import orjson
import pytest

from edge_gateway.config.uplink import MqttUplink
from edge_gateway.errors import UplinkLost, UplinkRefused
from edge_gateway.records import Message
from edge_gateway.testbench import FaultProxy, LocalAuthority, LocalHub, ProxyMode, free_loopback_address
from edge_gateway.testbench.broker import MosquittoBroker
from edge_gateway.uplink.mqtt import MqttBroker
from tests.log_events import log_events

from .far_sides import (
    GATEWAY,
    QUICK,
    TIME_LIMIT_S,
    BrokerFarSide,
    RecordingDownlink,
    failure_to_connect,
    soon,
)


def uplink(broker: BrokerFarSide, **changes: object) -> MqttBroker:
    settings = {
        "host": broker.proxy.address,
        "port": broker.proxy.port,
        "username": GATEWAY,
        "password_file": broker.directory / "right",
        "ca_file": broker.broker.ca_file,
    }
    return MqttBroker(MqttUplink.model_validate(settings | changes), QUICK, gateway=GATEWAY)


async def test_topics_are_filled_in(broker: BrokerFarSide, gateway: RecordingDownlink) -> None:
    """Messages, commands and answers go where the configuration says."""
    configured = uplink(
        broker,
        topic="edge-gateway/{message_id}/{{x}}/{lane}/{gateway}",
        command_topic="edge-gateway/do/{gateway}/#",
        answer_topic="edge-gateway/done/{request}/by/{gateway}",
    )
    async with asyncio.timeout(TIME_LIMIT_S), configured.connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        await session.send(Message("id-1", "alert", 1, 1, b"[]"))
        broker.listener.publish(f"edge-gateway/do/{GATEWAY}/a/b/r7", b'{"device": "boiler", "command": "ping"}')
        topics = [f"edge-gateway/id-1/{{x}}/alert/{GATEWAY}", f"edge-gateway/done/r7/by/{GATEWAY}"]
        await broker.listener.until(lambda: set(topics) <= set(dict(broker.listener.heard)))
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
    heard = dict(broker.listener.heard)
    assert heard[topics[0]] == b"[]"
    assert orjson.loads(heard[topics[1]])["status"] == "acknowledged"
    assert gateway.commands[0].source == "mqtt"
    assert gateway.commands[0].correlation_id == "r7"


async def test_a_command_that_is_no_json_is_answered(broker: BrokerFarSide, gateway: RecordingDownlink) -> None:
    """Bytes that are no JSON, or too many, get an answer that says so."""
    async with asyncio.timeout(TIME_LIMIT_S), broker.uplink().connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        for request, payload in (("r1", b"\xff{"), ("r2", b""), ("r3", b" " * 200_000)):
            broker.listener.publish(f"edge-gateway/{GATEWAY}/commands/{request}", payload)
        answers = [f"edge-gateway/{GATEWAY}/answers/r{number}" for number in (1, 2, 3)]
        await broker.listener.until(lambda: set(answers) <= set(dict(broker.listener.heard)))
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
    told = [orjson.loads(dict(broker.listener.heard)[topic]) for topic in answers]
    assert [each["status"] for each in told] == ["invalid"] * 3
    assert told[0]["detail"].startswith("command: is not JSON")
    assert told[2]["detail"].startswith("command: is larger than 131072 bytes")


async def test_a_command_that_the_broker_keeps_is_not_obeyed(broker: BrokerFarSide, gateway: RecordingDownlink) -> None:
    """A retained message comes with every connection: what somebody wanted once would be done again each time."""
    commands, body = f"edge-gateway/{GATEWAY}/commands", b'{"device": "boiler", "command": "ping"}'
    async with asyncio.timeout(TIME_LIMIT_S):
        broker.listener.publish(f"{commands}/kept", body, retain=True)
        await broker.listener.until(lambda: f"{commands}/kept" in dict(broker.listener.heard))
        with log_events() as events:
            async with broker.uplink().connect(gateway.downlink()) as session:
                lost = asyncio.create_task(session.lost())
                broker.listener.publish(f"{commands}/now", body)
                answer = f"edge-gateway/{GATEWAY}/answers/now"
                await broker.listener.until(lambda: answer in dict(broker.listener.heard))
                lost.cancel()
                await asyncio.gather(lost, return_exceptions=True)
    assert [command.correlation_id for command in gateway.commands] == ["now"]
    assert [event["topic"] for event in events if event["event"] == "uplink.command_retained"] == [f"{commands}/kept"]


async def test_a_command_whose_answer_has_no_topic_ends_nothing(
    broker: BrokerFarSide, gateway: RecordingDownlink
) -> None:
    """An empty last level makes an empty topic of a template that holds nothing else; the next command is answered."""
    configured = uplink(broker, command_topic="edge-gateway/do/+", answer_topic="{request}")
    body = b'{"device": "boiler", "command": "ping"}'
    async with asyncio.timeout(TIME_LIMIT_S), configured.connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        with log_events() as events:
            broker.listener.publish("edge-gateway/do/", body)
            broker.listener.publish("edge-gateway/do/edge-gateway", body)
            await broker.listener.until(lambda: "edge-gateway" in dict(broker.listener.heard))
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
    assert [event["request"] for event in events if event["event"] == "uplink.answer_lost"] == [""]


async def test_a_password_others_can_read_is_not_used(broker: BrokerFarSide, gateway: RecordingDownlink) -> None:
    """The gateway does not send a password that is no secret, and goes on as soon as somebody has mended that."""
    password = broker.directory / "right"
    password.chmod(0o640)
    configured = uplink(broker)
    error = await soon(failure_to_connect(configured, gateway))
    assert isinstance(error, UplinkRefused)
    assert str(error) == f"{password}: can be read by others. chmod go-rwx {password}"
    password.chmod(0o600)
    async with asyncio.timeout(TIME_LIMIT_S), configured.connect(gateway.downlink()):
        pass


@pytest.mark.parametrize(
    ("content", "text"), [(None, "cannot be read: No such file or directory"), (b"\xff\xfe", "is not UTF-8 text")]
)
async def test_a_password_that_cannot_be_read_is_a_refusal(
    broker: BrokerFarSide, gateway: RecordingDownlink, content: bytes | None, text: str
) -> None:
    """A missing or broken password file does not end the gateway, and nothing of it is told."""
    path = broker.directory / "broken"
    if content is not None:
        path.touch(mode=0o600)
        path.write_bytes(content)
    error = await soon(failure_to_connect(uplink(broker, password_file=path), gateway))
    assert isinstance(error, UplinkRefused)
    assert str(error).startswith(f"{path}: {text}. ")
    if content is not None:
        assert error.__cause__ is None


async def test_the_broker_that_refuses_says_why(broker: BrokerFarSide, gateway: RecordingDownlink) -> None:
    """The return code of the broker is told in words."""
    error = await soon(failure_to_connect(broker.uplink(right_key=False), gateway))
    assert isinstance(error, UplinkRefused)
    assert error.what == "does not authorise this client"  # mosquitto answers 5 where the standard has 4
    assert error.remedy == "Check username, password_file and the broker's access list"


async def test_a_certificate_for_another_name_is_refused(gateway: RecordingDownlink, authority: LocalAuthority) -> None:
    """A certificate is good for the host it names and no other."""
    async with MosquittoBroker(authority=authority, address="127.0.0.1") as broker:
        settings = MqttUplink(host="localhost", port=broker.port, ca_file=broker.ca_file)
        error = await soon(failure_to_connect(MqttBroker(settings, QUICK, gateway=GATEWAY), gateway))
    assert isinstance(error, UplinkRefused)
    assert "certificate that cannot be trusted: Hostname mismatch" in error.what
    assert ".." not in str(error)


async def test_a_port_without_tls_is_told(gateway: RecordingDownlink, authority: LocalAuthority) -> None:
    """Something that answers and speaks no TLS is told from a broker that is away."""

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.net ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server, MosquittoBroker(authority=authority) as some:
        settings = MqttUplink(host="127.0.0.1", port=server.sockets[0].getsockname()[1], ca_file=some.ca_file)
        error = await soon(failure_to_connect(MqttBroker(settings, QUICK, gateway=GATEWAY), gateway))
    assert isinstance(error, UplinkLost)
    assert error.what.startswith("the TLS handshake failed (")
    assert error.remedy == "Check that this port speaks TLS"


async def test_a_connection_that_comes_up_too_late_does_not_push_out_the_next(
    broker: BrokerFarSide, gateway: RecordingDownlink
) -> None:
    """An attempt that was given up ends without a CONNECT, though the network would let it come up by now."""
    broker.proxy.mode = ProxyMode.SILENT
    hasty = broker.uplink(delivery=QUICK.model_copy(update={"connect_timeout_s": 0.2}))
    error = await soon(failure_to_connect(hasty, gateway))
    assert error.what == "does not answer"
    broker.proxy.mode = ProxyMode.PASS
    async with asyncio.timeout(TIME_LIMIT_S), broker.uplink().connect(gateway.downlink()) as session:
        await broker.broker.logged("Client <unknown> ")
        await session.send(Message("id-1", "normal", 1, 1, b"[]"))
    assert broker.broker.times_logged(f" as {GATEWAY} ") == 1


async def test_a_broker_that_accepts_and_never_answers_is_hung_up_on(
    broker: BrokerFarSide, gateway: RecordingDownlink, authority: LocalAuthority
) -> None:
    """TLS without a CONNACK is given up in time, and the socket with it."""
    closed = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        closed.set()
        writer.close()

    tls = authority.server_context(["127.0.0.1"])
    async with await asyncio.start_server(swallow, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        settings = MqttUplink(host="127.0.0.1", port=port, ca_file=broker.broker.ca_file)
        hasty = QUICK.model_copy(update={"connect_timeout_s": 0.3})
        error = await soon(failure_to_connect(MqttBroker(settings, hasty, gateway=GATEWAY), gateway))
        assert isinstance(error, UplinkLost)
        await soon(closed.wait())


async def test_the_client_id_is_the_gateways_or_the_configured_one(
    broker: BrokerFarSide, gateway: RecordingDownlink
) -> None:
    """A broker's operator finds the gateway under its name."""
    for configured, expected in ((uplink(broker), GATEWAY), (uplink(broker, client_id="other"), "other")):
        async with asyncio.timeout(TIME_LIMIT_S), configured.connect(gateway.downlink()):
            await broker.broker.logged(f" as {expected} ")


async def test_a_network_that_drops_the_first_attempts(gateway: RecordingDownlink, authority: LocalAuthority) -> None:
    """A connection cut in the middle of the handshake is a loss, not a crash."""
    async with MosquittoBroker(authority=authority) as broker, FaultProxy(broker.address, broker.port) as proxy:
        settings = MqttUplink(host=proxy.address, port=proxy.port, ca_file=broker.ca_file)
        configured = MqttBroker(settings, QUICK, gateway=GATEWAY)
        proxy.mode = ProxyMode.SILENT
        connecting = asyncio.create_task(failure_to_connect(configured, gateway))
        await asyncio.wait([connecting], timeout=0.1)
        proxy.reset()
        assert isinstance(await soon(connecting), UplinkLost)


def test_files_of_the_system_are_not_needed(tmp_path: Path) -> None:
    """Without a CA file the system's certificates are trusted, and no file is opened for it here."""
    assert MqttBroker(MqttUplink(host="h"), QUICK, gateway="g").endpoint == "mqtts://h:8883"


async def test_a_broker_that_denies_commands_still_takes_readings(tmp_path: Path, gateway: RecordingDownlink) -> None:
    """A refused command topic is told in the log, and the session delivers all the same."""
    authority = LocalAuthority()
    address = free_loopback_address(random.Random())
    (tmp_path / "ca.pem").write_text(authority.ca_pem)
    # An IoT Hub is a broker that knows few topics and refuses the others.
    async with LocalHub(authority=authority, address=address) as hub:
        hub.add_device(GATEWAY)
        password = tmp_path / "password"
        password.touch(mode=0o600)
        password.write_text(hub.sas_token(GATEWAY))
        settings = MqttUplink(
            host=address,
            client_id=GATEWAY,
            username=f"{address}/{GATEWAY}/?api-version=2021-04-12",
            password_file=password,
            ca_file=tmp_path / "ca.pem",
            topic="devices/{gateway}/messages/events/%24.mid={message_id}",
            command_topic="commands/{gateway}/+",
        )
        with log_events() as events:
            async with (
                asyncio.timeout(TIME_LIMIT_S),
                MqttBroker(settings, QUICK, gateway=GATEWAY).connect(gateway.downlink()) as session,
            ):
                await session.send(Message("id-1", "normal", 1, 1, b"[]"))
        assert [event["topic"] for event in events if event["event"] == "uplink.commands_denied"] == [
            f"commands/{GATEWAY}/+"
        ]
        assert [message.message_id for message in hub.messages] == ["id-1"]


async def test_what_stands_in_one_tls_record_is_read_at_once(
    broker: BrokerFarSide, gateway: RecordingDownlink, authority: LocalAuthority
) -> None:
    """Three commands that come in one piece with SUBACK are obeyed, though the socket has nothing more to say."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while first := await reader.read(1):
            length = shift = 0
            while True:
                (digit,) = await reader.readexactly(1)
                length |= (digit & 0x7F) << shift
                shift += 7
                if digit < 0x80:
                    break
            packet = await reader.readexactly(length)
            if first[0] == 0x10:  # CONNECT
                writer.write(bytes.fromhex("20020000"))
            elif first[0] == 0x82:  # SUBSCRIBE: packet id, length of the filter, filter, QoS
                topic = packet[4 : 4 + packet[3]].rstrip(b"#+") + b"r1"
                body = b'{"device": "boiler", "command": "ping"}'
                publish = bytes([0x30, 2 + len(topic) + len(body), 0, len(topic)]) + topic + body
                writer.write(b"\x90\x03" + packet[:2] + b"\x01" + 3 * publish)
        writer.close()

    tls = authority.server_context(["127.0.0.1"])
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        settings = MqttUplink(host="127.0.0.1", port=port, ca_file=broker.broker.ca_file)
        async with MqttBroker(settings, QUICK, gateway=GATEWAY).connect(gateway.downlink()) as session:
            lost = asyncio.create_task(session.lost())
            await soon(gateway.until(lambda: len(gateway.commands) == 3))
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)
