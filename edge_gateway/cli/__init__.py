"""The `edge-gateway` command: one file for each subcommand.

Exit codes, the same for all: 0 done; 1 the work ran and its outcome is bad; 2 the call or the configuration is wrong;
3 something outside failed, and trying again may help.
"""

from edge_gateway.cli.entry import main

__all__ = ["main"]
