"""The page about profiles: every example decodes to what stands below it, and every key of the language is in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edge_gateway.codec import compile_profile, parse_profile
from edge_gateway.codec.profile import Profile
from edge_gateway.codec.radio import Radio
from edge_gateway.codec.structure.items import Array, Computed, Encrypted, Group, Plain, Require, Switch, Tlv
from edge_gateway.codec.vectors import failed_vectors
from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import ProfileError

PAGE = (Path(__file__).parents[2] / "docs/reference/profile.md").read_text()


class Example(NamedTuple):
    """A few fields, and what becomes of frames."""

    declared: str
    rows: list[tuple[str, str]]


EXAMPLES = [
    Example(match[1], re.findall(r"^\| `([0-9a-f ]*)` \| (.+) \|$", match[2], re.MULTILINE))
    for match in re.finditer(r"```yaml\n((?:(?!```).)*?)```\n\n\| Frame \| Becomes \|\n(.*?)\n\n", PAGE, re.DOTALL)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.rows[0][0])
def test_an_example_decodes_as_it_says(example: Example) -> None:
    """Frames become the values beside them, or are rejected for the reason beside them."""
    declared: dict[str, Any] = parse_yaml(example.declared, where="profile.md", error_type=ProfileError)
    parts = declared.pop("parts", {})
    about = {"name": "shown", "version": 1, "title": "Shown", "source": {"document": "profile.md"}, "parts": parts}
    frame = {"role": "sample", "endian": "big", **declared}
    codec = compile_profile(Profile.model_validate({**about, "frames": {"only": frame}}))
    assert example.rows
    for hexadecimal, becomes in example.rows:
        decoded = codec.decode([bytes.fromhex(hexadecimal)])
        if becomes.startswith("rejected: "):
            assert f"rejected: `{decoded.rejects[0].reason}`" == becomes
        else:
            assert [sample.values for sample in decoded.samples] == [json.loads(becomes.strip("`"))]


def test_there_are_examples_of_every_item() -> None:
    """No item is only spoken of."""
    shown = "".join(example.declared for example in EXAMPLES) + "".join(
        re.findall(r"```yaml\n(name:.*?)```", PAGE, re.DOTALL)
    )
    for item in ("group", "array", "switch", "tlv", "computed", "require", "encrypted", "plain", "part"):
        assert f"type: {item}" in shown


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(name:.*?)```", PAGE, re.DOTALL))
def test_whole_profiles_hold_their_vectors(text: str) -> None:
    """A whole profile in the page decodes its vectors."""
    profile = parse_profile(text, "profile.md")
    assert profile.vectors
    assert failed_vectors(compile_profile(profile)) == []


@pytest.mark.parametrize(
    "model", [Profile, Radio, Group, Array, Switch, Tlv, Computed, Encrypted, Plain, Require], ids=lambda m: m.__name__
)
def test_every_key_is_explained(model: type[Any]) -> None:
    """A key that the language has is in the page, in code."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        assert re.search(rf"`[^`\n]*\b{key}\b[^`\n]*`|^ *-? ?\{{?.*\b{key}:", PAGE, re.MULTILINE), key
