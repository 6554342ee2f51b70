"""Frames to named values with units, and commands to frames, compiled from one declaration for each device family.

Pure: no I/O on the way of the data, no clock, no asyncio. A `Profile` is read from YAML, checked, and compiled once
into Python source built on precompiled `struct` objects; what runs for every frame is that code and no interpreter.

```python
codec = compile_profile(load_profile("reference-climate"))
decoded = codec.decode(frames)          # many frames in; samples, answers and rejects out
request = codec.encode_command("set-period", {"period_ms": 500}, address=7)
```
"""

from edge_gateway.codec.codec import Codec, Request, compile_profile
from edge_gateway.codec.compile import Decoded
from edge_gateway.codec.load import load_profile, parse_profile, profile_names
from edge_gateway.codec.profile import Profile
from edge_gateway.codec.rows import Row
from edge_gateway.codec.vectors import failed_vectors

__all__ = [
    "Codec",
    "Decoded",
    "Profile",
    "Request",
    "Row",
    "compile_profile",
    "failed_vectors",
    "load_profile",
    "parse_profile",
    "profile_names",
]
