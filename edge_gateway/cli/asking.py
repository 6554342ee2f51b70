"""Puts requests to a gateway, whether it runs or not.

One that runs answers over its control socket. For one that is stopped the command opens the store and answers itself,
by the same code.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import shlex
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_gateway.api.control import Answer, Handler, NotRunning, ask, serve_control
from edge_gateway.api.handlers import buffer_handlers, gateway_handlers
from edge_gateway.assembly import BUFFER_FILE, check_parts, open_buffer, open_gateway
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import BufferInUse, ConfigError

ConfigFile: TypeAlias = Annotated[Path, typer.Option("--config", "-c", help="The gateway's configuration file.")]
JsonLines: TypeAlias = Annotated[bool, typer.Option("--json", help="Answer as JSON, a document a line.")]

Opener: TypeAlias = Callable[[GatewayConfig], AbstractAsyncContextManager[Mapping[str, Handler]]]
"""Opens what a request needs of a stopped gateway."""

_LOCKED_REMEDY: Final = (
    "If it is just starting or stopping, try again in a moment. Otherwise a gateway hangs there, or another command is "
    "at work: `fuser -v {path}` names the process"
)


@asynccontextmanager
async def only_its_buffer(config: GatewayConfig) -> AsyncIterator[Mapping[str, Handler]]:
    """Open the store and nothing else, so that no profile and no hub can be in the way."""
    async with open_buffer(config, clock=SystemClock(config.gateway.clock_trust), rng=random.SystemRandom()) as buffer:
        yield buffer_handlers(buffer)


@asynccontextmanager
async def without_running(config: GatewayConfig) -> AsyncIterator[Mapping[str, Handler]]:
    """Make the gateway with its profiles and rules, and do not run it."""
    parts = check_parts(config, clock=SystemClock(config.gateway.clock_trust))
    async with open_gateway(parts, clock=SystemClock(config.gateway.clock_trust), rng=random.SystemRandom()) as gateway:
        yield gateway_handlers(gateway)


@asynccontextmanager
async def without_links(config: GatewayConfig) -> AsyncIterator[Mapping[str, Handler]]:
    """Run the gateway with no links: it delivers what is there, and nothing comes in."""
    parts = check_parts(config, clock=SystemClock(config.gateway.clock_trust))
    parts = replace(parts, config=config.model_copy(update={"links": ()}))
    stop = asyncio.Event()
    async with open_gateway(parts, clock=SystemClock(config.gateway.clock_trust), rng=random.SystemRandom()) as gateway:
        handlers = gateway_handlers(gateway)
        async with serve_control(config.gateway.data_directory, handlers):
            running = asyncio.create_task(gateway.run(stop), name="gateway without links")
            try:
                yield handlers
            finally:
                stop.set()
                await running


async def answers(
    config: GatewayConfig, request: str, opener: Opener | None = only_its_buffer, **arguments: object
) -> AsyncGenerator[Answer, None]:
    """Ask the gateway, or open what is needed and answer, and return the lines of the answer as they come.

    Args:
        config: the gateway's.
        request: its name.
        opener: what to open of a gateway that is stopped; None if only a running one can answer.
        arguments: the request's; None is the same as leaving it out.

    Raises:
        NotRunning: no gateway runs, and only a running one can answer.
        ConfigError: there is no buffer, or it is another user's.
        BufferInUse: no gateway answers, and the store is open in another process all the same.
        GatewayError: the request failed.
    """
    directory = config.gateway.data_directory
    try:
        async with aclosing(ask(directory, request, **arguments)) as lines:
            async for line in lines:
                yield line
        return
    except NotRunning:
        if opener is None:
            raise
    path = directory / BUFFER_FILE
    _check_file(path)
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        async with opener(config) as handlers, aclosing(handlers[request].answer(**given)) as lines:
            async for line in lines:
                yield line
    except BufferInUse as error:
        raise BufferInUse(
            "the buffer is open in another process, but no gateway answers here",
            where=str(directory),
            remedy=_LOCKED_REMEDY.format(path=path),
        ) from error


def check_owner(directory: Path, command: str) -> None:
    """Refuse to leave keys in a data directory that its gateway could not read, as root would.

    Args:
        directory: the gateway's; there need be none yet.
        command: what was called, for the remedy.

    Raises:
        ConfigError: it belongs to another user.
    """
    try:
        owner = directory.stat().st_uid
    except FileNotFoundError:
        return
    if owner != os.geteuid():
        name = _user_name(owner)
        raise ConfigError(
            f"the data directory belongs to the user {name}, who could not read what you leave there",
            where=str(directory),
            remedy=f"Do this as {name}: sudo -u {shlex.quote(name)} edge-gateway {command} ...",
        )


def _check_file(path: Path) -> None:
    """Refuse to make a buffer by looking at it, or to leave files in it that its gateway could not read."""
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        raise ConfigError(
            "there is no buffer here; a gateway makes it when it first starts",
            where=str(path.parent),
            remedy="Check data_directory",
        ) from None
    if owner != os.geteuid():
        name = _user_name(owner)
        raise ConfigError(
            f"the buffer belongs to the user {name}, who could not read what you leave there",
            where=str(path),
            remedy=f"Do this as {name}: sudo -u {shlex.quote(name)} edge-gateway ...",
        )


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


async def watched(
    lines: AsyncGenerator[Answer, None], title: str, *, with_bar: bool = True
) -> AsyncGenerator[Answer, None]:
    """Draw the progress of an answer on standard error, if that is a terminal, and return the other lines.

    Args:
        lines: the answer.
        title: what is being done.
        with_bar: False where the other lines come too thick for a bar between them.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not (with_bar and console.is_terminal)
    bar = Progress(
        *columns, console=console, transient=True, disable=hidden, redirect_stdout=False, redirect_stderr=False
    )
    task = bar.add_task(title, total=None)
    async with aclosing(lines):
        try:
            async for line in lines:
                match line:
                    case {"progress": {"done": done, "of": of}}:
                        bar.start()
                        bar.update(task, completed=done, total=of)
                    case _:
                        if sys.stdout.isatty():
                            bar.stop()  # it would stand where the caller writes; with the next progress it is back
                        yield line
        finally:
            bar.stop()


def show_line(line: Answer) -> None:
    """Print a line of an answer as JSON; lists of records, rows and frames one by one."""
    match line:
        case {"records": list(documents)} | {"rows": list(documents)} | {"frames": list(documents)}:
            for document in documents:
                typer.echo(orjson.dumps(document))
        case _:
            typer.echo(orjson.dumps(line))


def ask_and_show(
    config_file: Path,
    request: str,
    show: Callable[[Answer], bool | None],
    *,
    title: str,
    opener: Opener | None = only_its_buffer,
    **arguments: object,
) -> None:
    """The whole of a command: ask, draw progress, show the rest, and exit with 1 if something in it was bad.

    Args:
        config_file: the gateway's configuration.
        request: its name.
        show: prints a line of the answer; returns True if what it says is bad.
        title: what is being done.
        opener: what to open of a gateway that is stopped; None if only a running one can answer.
        arguments: the request's.
    """
    config = load_config(config_file)

    async def ask_for_all() -> bool:
        is_bad = False
        async with aclosing(watched(answers(config, request, opener, **arguments), title)) as lines:
            async for line in lines:
                is_bad |= show(line) is True
        return is_bad

    if asyncio.run(ask_for_all()):
        raise typer.Exit(1)
