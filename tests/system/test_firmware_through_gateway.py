"""A real constrained device through the whole gateway: C firmware on an emulated microcontroller, to a hub and back."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import orjson
import pytest

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.records import Value
from edge_gateway.testbench import LocalAuthority, LocalHub, free_loopback_address

from .firmware_board import BAUD, DEFAULT_ADDRESS, FirmwareBoard, ToolsMissing, require_tools
from .gateway_process import GatewayProcess
from .receiver import Receiver
from .site import GATEWAY, QUICK, hub_uplink, write_config


async def test_a_microcontroller_is_decoded_and_commanded(tmp_path: Path) -> None:
    """Its samples arrive at the hub as JSON; a direct method switches its relay, and later samples show that."""
    try:
        require_tools()
    except ToolsMissing as missing:
        pytest.skip(str(missing))
    authority = LocalAuthority()
    address = free_loopback_address(random.Random())
    receiver = Receiver()
    with FirmwareBoard() as board:
        async with LocalHub(authority=authority, address=address, on_message=receiver.add) as hub:
            identity = hub.add_device(GATEWAY)
            config = write_config(
                tmp_path,
                uplink=hub_uplink(tmp_path, authority, address),
                links=[
                    {
                        "name": "bus",
                        "port": {"path": board.port},
                        "profile": "reference-climate",
                        "line": {"baud": BAUD},
                        "devices": [{"name": "board", "address": DEFAULT_ADDRESS}],
                    }
                ],
                buffer=QUICK["buffer"],
                delivery=QUICK["delivery"],
            )
            async with GatewayProcess(config) as gateway:
                keys = SoftwareKeyStore(gateway.data_directory / KEYS_DIRECTORY)
                keys.put("gateway", Secret(base64.b64decode(identity.primary_key)))
                await gateway.start_reading()

                def modes() -> list[str]:
                    records = (record for message in hub.messages for record in orjson.loads(message.body))
                    return [record["values"]["mode"] for record in records if "profile" in record]

                await hub.until(lambda: "idle" in modes())

                async def command(name: str, **arguments: int) -> tuple[int, str]:
                    payload: dict[str, Value] = {"device": "board", "command": name, "arguments": arguments}
                    response = await hub.invoke_method(GATEWAY, "command", payload, connect_timeout_s=30)
                    assert isinstance(response.payload, dict)
                    return response.status, str(response.payload["status"])

                assert await command("ping") == (200, "acknowledged")
                assert await command("set-period", period_ms=100) == (200, "acknowledged")
                assert await command("set-relay", state=1) == (200, "acknowledged")
                await hub.until(lambda: "measure" in modes())
                ended = await gateway.stop()
                assert ended.code == 0
                accounts = gateway.ledger()
                assert all(account.balance() == 0 for account in accounts.values())
                assert gateway.stray_lines == []
