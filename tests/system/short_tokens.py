"""`edge-gateway run` with sensors' tokens that live shorter than a configuration may say, so that a test sees them end.

`python -m tests.system.short_tokens SECONDS run --config ...`: all else is the product.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from edge_gateway.cli import main
from edge_gateway.cli.app import collect


def shorten(lifetime_s: int) -> None:
    """Have sensors' sessions made as if the configuration said so; not the gateway's, which ends long before."""
    collect("run")  # first, so that it imports as little as it does by itself
    assembly = import_module("edge_gateway.assembly")
    make_sensor_uplinks = assembly.make_sensor_uplinks

    def make(config: Any, *parts: Any, **more: Any) -> Any:
        uplink = config.uplink.model_copy(update={"token_lifetime_s": lifetime_s})  # which is not checked
        return make_sensor_uplinks(config.model_copy(update={"uplink": uplink}), *parts, **more)

    vars(assembly)["make_sensor_uplinks"] = make


if __name__ == "__main__":
    shorten(int(sys.argv.pop(1)))
    main()
