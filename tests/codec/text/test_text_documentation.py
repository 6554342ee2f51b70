"""The page on text frames shows profiles that work."""

from __future__ import annotations

import re
from pathlib import Path

from edge_gateway.codec import compile_profile, failed_vectors, parse_profile

from .examples import block, read

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "profile-text.md"


def test_the_documented_list_works() -> None:
    """The first example loads, and its vectors hold."""
    example = re.search(r"```yaml\n(name.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert example is not None
    assert failed_vectors(compile_profile(parse_profile(example[1], "profile-text.md"))) == []


def test_the_documented_line_of_labels_works() -> None:
    """`T=23.4,H=50` is a block as the page says."""
    frame = block({"H": {"name": "h", "type": "integer"}}, line_break=",", opens="=")
    assert read(frame, b"T=23.4,H=50") == {"h": 50}
