"""What keeps the process small that runs for years: it is started without what only other commands need."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

_CONFIG: Final = ("--config", "-c")
_CAPTURE: Final = "--capture"
_JSON: Final = "--json"


class PlainRun(NamedTuple):
    """`edge-gateway run`, as it stands in a service's file."""

    config: Path
    capture: Path | None
    json: bool


def plain_run(arguments: Sequence[str]) -> PlainRun | None:
    """What is called, if it is `run` and plainly so; None leaves the question to the command line, which takes 2 MiB.

    Args:
        arguments: of the process, without its name.
    """
    if arguments[:1] != ["run"]:
        return None
    given: dict[str, str] = {}
    rest = list(reversed(arguments[1:]))
    while rest:
        name = rest.pop()
        name = _CONFIG[0] if name in _CONFIG else name
        is_known = name in (_CONFIG[0], _CAPTURE, _JSON) and name not in given
        value = "" if name == _JSON or not rest else rest.pop()
        if not is_known or (name != _JSON and not value) or value.startswith("-"):
            return None
        given[name] = value
    if _CONFIG[0] not in given:
        return None
    capture = Path(given[_CAPTURE]) if _CAPTURE in given else None
    return PlainRun(Path(given[_CONFIG[0]]), capture, _JSON in given)


def import_lean() -> None:
    """Import three libraries without what they take along for work that a gateway never does: 7 MiB in all."""
    # To draw tracebacks; to say that a log is no thing to be pickled.
    _import_without("structlog", {"rich": None, "pickle": {"PicklingError": TypeError}})
    # To ask every installed package whether it extends pydantic; which of the two functions it calls, varies.
    _import_without(
        "pydantic.plugin._loader", {"importlib.metadata": {"entry_points": _nothing, "distributions": _nothing}}
    )
    # To know a time zone in a model; no setting is one.
    for module in ("pydantic.main", "pydantic.types"):
        _import_without(module, {"zoneinfo": {"ZoneInfo": _NoTimeZone, "ZoneInfoNotFoundError": KeyError}})
    # To read from the environment which proxy leads to the broker, if it names one.
    if "mqtt_proxy" not in map(str.lower, os.environ):
        _import_without("paho.mqtt.client", {"urllib.request": {"proxy_bypass": _is_needless}})


def _import_without(module: str, unused: Mapping[str, Mapping[str, object] | None]) -> None:
    """Import a module while others seem not to be there, or to consist of no more than what is given of them."""
    if module in sys.modules:
        return
    left_out = [name for name in unused if name not in sys.modules]
    for name in left_out:
        sys.modules[name] = _stand_in(name, unused[name])  # type: ignore[assignment]  # None tells Python: there is none
    try:
        # A version that asks for more fails here, and gets all there is when it is first needed.
        with contextlib.suppress(ImportError):
            import_module(module)
    finally:
        for name in left_out:
            del sys.modules[name]


def _stand_in(name: str, content: Mapping[str, object] | None) -> ModuleType | None:
    if content is None:
        return None
    stand_in = ModuleType(name)
    vars(stand_in).update(content)
    return stand_in


class _NoTimeZone:
    """Of which there are none."""


def _nothing(**_: str) -> tuple[()]:
    return ()


def _is_needless(_: str) -> bool:
    return True
