"""What profiles, frames, commands and polls may be called."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,63}$"), Field(examples=["reference-climate", "set-period"])
]
"""The name of a profile, frame, command or poll: lower case letters, digits and `-`."""
