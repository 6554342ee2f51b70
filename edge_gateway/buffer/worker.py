"""Where those look for `Worker` who knew it from here; it is in `edge_gateway.offload`."""

from edge_gateway.offload import Worker

__all__ = ["Worker"]
