"""`edge-gateway hub`: Azure on this machine, for development and tests without the cloud."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer

if TYPE_CHECKING:  # nobody else needs the bench, and `edge-gateway run` shall not pay for it
    from edge_gateway.testbench.cloud.edge.host import EdgeHost
    from edge_gateway.testbench.cloud.local_cloud import LocalCloud

app = typer.Typer(help="Azure on this machine: an IoT Hub, provisioning, and storage, for unmodified clients.")

_KEPT_MESSAGES = 10_000
"""For readers that come late. What is older is gone: the hub is for development and has to stay small."""

_Directory = Annotated[Path, typer.Option("--directory", "-d", help="The directory the hub was started with.")]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Option("--directory", "-d", help="Keeps keys, twins and files; in memory if left out.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="A device to register, if it is not yet. Repeat.")] = None,
    module: Annotated[list[str] | None, typer.Option(help="A module to register, as DEVICE/MODULE. Repeat.")] = None,
    edge_device: Annotated[list[str] | None, typer.Option(help="An IoT Edge device to register. Repeat.")] = None,
    group: Annotated[list[str] | None, typer.Option(help="An enrolment group with keys. Repeat.")] = None,
    deployment: Annotated[
        Path | None, typer.Option(help="A deployment manifest to run on the edge device that is named.")
    ] = None,
    run: Annotated[
        list[str] | None, typer.Option(help="How a module of it is run, as MODULE=COMMAND; images are not. Repeat.")
    ] = None,
    edge_address: Annotated[str, typer.Option(help="The IPv4 address of the edge device's own hub.")] = "127.0.0.2",
    address: Annotated[str, typer.Option(help="The IPv4 address to listen on.")] = "127.0.0.1",
    host_name: Annotated[str | None, typer.Option(help="By which clients know it; the address if left out.")] = None,
    mqtt_port: Annotated[int, typer.Option(help="0 takes a free one; the SDKs connect to 8883 only.")] = 8883,
    https_port: Annotated[
        int | None, typer.Option(help="443 if left out and this user may; -1 offers no HTTPS.")
    ] = None,
    amqp_port: Annotated[int, typer.Option(help="-1 offers no AMQP.")] = 5671,
    id_scope: Annotated[str, typer.Option(help="The provisioning service's.")] = "0ne00000001",
    tier: Annotated[
        Literal["F1", "B1", "B2", "B3", "S1", "S2", "S3"] | None,
        typer.Option(help="Hold clients to its rates and quota."),
    ] = None,
    units: Annotated[int, typer.Option(min=1, help="How many of that tier.")] = 1,
    faults: Annotated[Path | None, typer.Option(help="A script of faults, from the start on.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long; at Ctrl-C if left out.")] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="The least severe on standard error.")
    ] = "warning",
    json: Annotated[bool, typer.Option("--json", help="Say where it is as JSON, too.")] = False,
) -> None:
    """Run an IoT Hub and a provisioning service until Ctrl-C, and print what devices send, a line each.

    Unmodified Azure SDKs connect to it; all they need is its host name and its CA certificate. With --directory both
    that and all connection strings are in files there.
    """
    if context.invoked_subcommand is not None:
        return
    from edge_gateway.observability.log import configure_log
    from edge_gateway.testbench.cloud.local_cloud import LocalCloud
    from edge_gateway.testbench.listener import may_listen

    configure_log(log_level, as_json=json)
    https_denied = https_port is None and not may_listen(443)
    if https_port is None:
        https_port = -1 if https_denied else 443
    cloud = LocalCloud(
        directory=directory,
        address=address,
        host_name=host_name,
        mqtt_port=mqtt_port,
        https_port=https_port if https_port >= 0 else None,
        amqp_port=amqp_port if amqp_port >= 0 else None,
        id_scope=id_scope,
        keep_messages=_KEPT_MESSAGES,
        tier=tier,
        units=units,
    )

    def furnish() -> None:
        _register(cloud, device or [], module or [], edge_device or [], group or [])
        cloud.save_connections()
        _announce(cloud, directory, https_denied=https_denied, as_json=json)

    def edge_host(kept_in: Path, manifest: Path) -> EdgeHost:
        https_port = 443 if may_listen(443) else None
        return _edge_host(cloud, kept_in, edge_device or [], manifest, run or [], edge_address, https_port)

    edge = partial(edge_host, manifest=deployment) if deployment is not None else None
    asyncio.run(_serve(cloud, furnish, faults, seconds, edge, directory))


@app.command("token")
def token(name: Annotated[str, typer.Argument(help="DEVICE or DEVICE/MODULE.")], directory: _Directory) -> None:
    """Print a token, good for an hour, as the device itself would make it: the password for any MQTT client."""
    from edge_gateway.testbench.cloud.service.client import HubClient

    typer.echo(HubClient(directory).token(*name.partition("/")[::2]))


@app.command("key")
def key(
    name: Annotated[str, typer.Argument(help="DEVICE or DEVICE/MODULE.")],
    directory: _Directory,
) -> None:
    """Print the primary key, base64, for `edge-gateway keys import` and the like."""
    from edge_gateway.testbench.cloud.service.client import HubClient

    typer.echo(HubClient(directory).key(*name.partition("/")[::2]))


@app.command("events")
def events(
    directory: _Directory,
    from_sequence: Annotated[
        int | None, typer.Option("--from", min=0, help="Begin with this sequence number; with the next if left out.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
) -> None:
    """Print what devices send to a running hub, one JSON document a line."""
    from edge_gateway.testbench.cloud.service.client import HubClient

    with suppress(KeyboardInterrupt):
        for seen, line in enumerate(HubClient(directory).events(from_sequence), 1):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            if seen == count:
                return


@app.command("call")
def call(
    name: Annotated[str, typer.Argument(help="DEVICE or DEVICE/MODULE.")],
    method: Annotated[str, typer.Argument(help="The direct method.")],
    directory: _Directory,
    payload: Annotated[str, typer.Argument(help="JSON.")] = "null",
    timeout_s: Annotated[int, typer.Option("--timeout", min=5, max=300, help="Seconds it may take.")] = 30,
) -> None:
    """Call a direct method of a device that is connected to a running hub, and print status and payload."""
    from edge_gateway.testbench.cloud.service.client import HubClient, identity_path

    document = {"methodName": method, "payload": _parsed(payload), "responseTimeoutInSeconds": timeout_s}
    _print(HubClient(directory).call("POST", f"{identity_path(name)}/methods", document))


@app.command("send")
def send(
    device: Annotated[str, typer.Argument(help="The device.")],
    body: Annotated[str, typer.Argument(help="What to send, as UTF-8.")],
    directory: _Directory,
) -> None:
    """Send a cloud-to-device message by a running hub."""
    from edge_gateway.testbench.cloud.service.client import HubClient, identity_path

    path = identity_path(device).replace("/twins/", "/devices/", 1)
    HubClient(directory).call("POST", f"{path}/messages/devicebound", body=body.encode())


@app.command("twin")
def twin(
    name: Annotated[str, typer.Argument(help="DEVICE or DEVICE/MODULE.")],
    directory: _Directory,
    desired: Annotated[str | None, typer.Option(help="JSON to merge into the desired properties.")] = None,
) -> None:
    """Print a twin of a running hub, after changing its desired properties if that is asked for."""
    from edge_gateway.testbench.cloud.service.client import HubClient, identity_path

    client = HubClient(directory)
    if desired is None:
        _print(client.call("GET", identity_path(name)))
    else:
        _print(client.call("PATCH", identity_path(name), {"properties": {"desired": _parsed(desired)}}))


async def _serve(
    cloud: LocalCloud,
    furnish: Callable[[], None],
    script: Path | None,
    seconds: float | None,
    edge: Callable[[Path], EdgeHost] | None,
    directory: Path | None,
) -> None:
    from edge_gateway.testbench.cloud.service.event_stream import event_line

    faults = None
    if script is not None:
        from edge_gateway.testbench.cloud.fault_script import load_fault_script  # 2 MiB, YAML included

        faults = load_fault_script(script)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if seconds is not None:
        loop.call_later(seconds, stop.set)

    async def show() -> None:
        async for event in cloud.hub.events(0):
            sys.stdout.buffer.write(event_line(event))
            sys.stdout.buffer.flush()

    async with AsyncExitStack() as resources:
        await resources.enter_async_context(cloud)
        furnish()
        if edge is not None:
            kept_in = directory or Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="edge-")))
            await resources.enter_async_context(edge(kept_in))
        tasks: list[asyncio.Task[None]] = [asyncio.create_task(show(), name="hub-events")]
        if faults is not None:
            from edge_gateway.testbench.cloud.fault_script import Target, play

            target = Target(cloud.door, cloud.hub, cloud.authority)
            tasks.append(asyncio.create_task(play(faults, target), name="hub-faults"))
        stopping = asyncio.create_task(stop.wait(), name="hub-stop")
        # A script may end before the hub does; what fails ends the hub.
        while not stopping.done():
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in [each for each in tasks if each in done]:
                task.result()
                tasks.remove(task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _edge_host(
    cloud: LocalCloud,
    directory: Path,
    edge_devices: list[str],
    deployment: Path,
    run: list[str],
    address: str,
    https_port: int | None,
) -> EdgeHost:
    from edge_gateway.testbench.cloud.edge.deployment_manifest import load_manifest
    from edge_gateway.testbench.cloud.edge.host import EdgeHost

    if len(edge_devices) != 1:
        raise typer.BadParameter("name the one edge device it is for with --edge-device", param_hint="--deployment")
    commands = {}
    for entry in run:
        module, equals, command = entry.partition("=")
        if not equals or not command.strip():
            raise typer.BadParameter(f"{entry!r} names no command; MODULE=COMMAND would do", param_hint="--run")
        commands[module] = shlex.split(command)
    return EdgeHost(
        cloud.hub,
        edge_devices[0],
        directory / "edge",
        authority=cloud.authority,
        manifest=load_manifest(deployment),
        run=commands,
        address=address,
        https_port=https_port,
    )


def _register(
    cloud: LocalCloud, devices: list[str], modules: list[str], edge_devices: list[str], groups: list[str]
) -> None:
    """Register what is not there yet: a hub with a directory may know some of it from its last run."""
    from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, drawn_keys
    from edge_gateway.testbench.cloud.refusals import IdentityExists

    hub = cloud.hub
    for device_id in devices:
        with suppress(IdentityExists):
            hub.add_device(device_id)
    for device_id in edge_devices:
        with suppress(IdentityExists):
            hub.add_device(device_id, edge=True)
    for name in modules:
        device_id, slash, module_id = name.partition("/")
        if not slash:
            raise typer.BadParameter(f"{name!r} is no module; DEVICE/MODULE would do", param_hint="--module")
        with suppress(IdentityExists):
            hub.add_module(device_id, module_id)
    for group_id in groups:
        if group_id not in cloud.dps.groups:
            cloud.dps.add_group(EnrolmentGroup(group_id, drawn_keys()))


def _announce(cloud: LocalCloud, directory: Path | None, *, https_denied: bool, as_json: bool) -> None:
    """Say on standard error where it is, so that standard output has messages only."""
    from edge_gateway.testbench.certificates import CA_FILE
    from edge_gateway.testbench.cloud.local_cloud import CONNECTIONS_FILE

    files = {}
    if directory is not None:
        files = {"ca_file": str(directory / CA_FILE), "connections_file": str(directory / CONNECTIONS_FILE)}
    ports = cloud.door.ports()
    if as_json:
        document = {"hub": cloud.hub.host_name, "address": cloud.door.address, "ports": ports, **files}
        sys.stderr.buffer.write(orjson.dumps({"event": "hub.started", **document}, option=orjson.OPT_APPEND_NEWLINE))
        sys.stderr.flush()
        return
    spoken = ", ".join(f"{name.upper()} {port}" for name, port in ports.items())
    lines = [f"hub {cloud.hub.host_name} at {cloud.door.address}: {spoken}; id scope {cloud.dps.id_scope}"]
    if https_denied:
        lines.append("no HTTPS: this user may not listen on port 443 (--https-port 8443 would do, or root)")
    if directory is not None:
        lines += [f"CA certificate {files['ca_file']}", f"connection strings {files['connections_file']}"]
    else:
        lines.append("nothing is kept: with --directory, keys and connection strings are in files there")
    lines.append("what devices send follows; Ctrl-C ends")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}") from None


def _print(document: Any) -> None:
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
