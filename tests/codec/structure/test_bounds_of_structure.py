"""However a frame lies about its lengths and however a profile nests, time and memory stay small."""

from __future__ import annotations

import ast
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from pydantic import BaseModel

from edge_gateway.codec import Codec, compile_profile
from edge_gateway.codec.profile import Frame, Profile
from edge_gateway.errors import ProfileError

from .drawn import Item, Structure, structures
from .planned import frame_of, read


def compiled(*fields: Item, parts: dict[str, list[Item]] | None = None) -> Codec:
    return Structure(
        {"parts": parts or {}, "frames": {"only": {"role": "sample", "endian": "big", "fields": list(fields)}}}
    ).codec


COUNTS = [
    "{name: list, type: array, count: n, of: {name: x, type: u8}}",
    "{name: list, type: array, count: n, of: {name: g, type: group, fields: [{name: x, type: u8},"
    " {name: m, type: u32}, {name: inner, type: array, count: m, of: {name: y, type: u8}}]}}",
    "{name: body, type: bytes, length_bytes: n}",
    "{name: body, type: text, length_bytes: n}",
    "{type: tlv, header: [{name: t, type: u8}, {name: l, type: u32}], tag: t, length: l,"
    " items: {255: [{name: x, type: bytes, length_bytes: end}]}}",
]


@pytest.mark.parametrize("item", COUNTS)
def test_a_hostile_count_costs_nothing(item: str) -> None:
    """A frame of 40 bytes that claims to hold 4 thousand million elements takes no more memory than it is long."""
    codec = frame_of(f"[{{name: n, type: u32}}, {item}]")
    frame = b"\xff" * 40
    codec.decode([frame])
    tracemalloc.start()
    try:
        assert [reject.reason for reject in codec.decode([frame]).rejects] == ["length"]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 * 1024


def test_values_are_at_most_as_many_as_bytes() -> None:
    """The longest frame of the shortest items gives no more than a value for two bytes."""
    codec = frame_of("[{type: tlv, header: [{name: t, type: u8}], tag: t, items: {1: [{name: x, type: u8}]}}]")
    values = read(codec, "0107" * 2048)
    assert len(values) == 2048
    assert values["x_2048"] == 7


def nested_choices(levels: int) -> list[Item]:
    """Choices of many in choices of many, each behind a condition: what indents source most."""
    inner: list[Item] = [{"name": "last", "type": "u8"}]
    for level in range(levels):
        on = f"on{level}x"
        cases = {n: inner if n == 100 else [{"name": f"c{level}x{n}", "type": "u8"}] for n in range(200)}
        inner = [{"name": on, "type": "u8"}, {"type": "switch", "on": on, "cases": cases, "if": f"{on} > 0"}]
    return inner


def nested_tags(levels: int) -> list[Item]:
    """Tagged items in tagged items: a loop for each level."""
    inner: list[Item] = [{"name": "last", "type": "u8"}]
    for level in range(levels):
        header = [{"name": f"t{level}x", "type": "u8"}]
        inner = [{"type": "tlv", "header": header, "tag": f"t{level}x", "items": {1: inner}}]
    return inner


def test_the_deepest_nesting_compiles() -> None:
    """As deep as items may stand in items, Python takes the source and reads a frame; deeper is refused."""
    assert read(compiled(*nested_choices(8)), "64" * 8 + "07")["last"] == 7
    assert read(compiled(*nested_tags(8)), "01" * 8 + "07") == {"last": 7}
    for nested in (nested_choices, nested_tags):
        with pytest.raises(ValueError, match="too deep"):
            compiled(*nested(9))


def test_wide_choices_compile() -> None:
    """Two thousand tags and two thousand cases, each in the other, are no row that Python's compiler refuses."""
    tags = {tag: [{"name": f"v{tag}x", "type": "u8"}] for tag in range(1800)}
    tlv: Item = {"type": "tlv", "header": [{"name": "t", "type": "u16"}], "tag": "t", "items": tags}
    cases = {case: [tlv] if case == 7 else [{"name": f"w{case}x", "type": "u8"}] for case in range(1800)}
    codec = compiled({"name": "n", "type": "u16"}, {"type": "switch", "on": "n", "cases": cases})
    assert read(codec, "0007 0700 05") == {"n": 7, "v1792x": 5}
    assert read(codec, "0700 05") == {"n": 1792, "w1792x": 5}


def fifty(part: int) -> Item:
    """A choice of fifty times the same part."""
    return {"type": "switch", "on": "n", "cases": {n: [{"type": "part", "part": f"p{part}"}] for n in range(50)}}


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ([{"type": "part", "part": "p0"}], {f"p{n}": [{"type": "part", "part": f"p{n + 1}"}] * 50 for n in range(6)}),
        ([{"type": "part", "part": "p0"}], {"p0": [{"type": "part", "part": "p0"}]}),
        ([{"name": "n", "type": "u8"}, {"type": "part", "part": "p0"}], {f"p{n}": [fifty(n + 1)] for n in range(6)}),
        ([*({"name": f"f{n}", "type": "u8", "if": "true"} for n in range(5000))], {}),
    ],
)
def test_a_profile_that_unfolds_without_end_is_refused(fields: list[Item], parts: dict[str, list[Item]]) -> None:
    """Parts of parts and items in items have a bound, found before they are unfolded."""
    parts = {f"p{n}": [] for n in range(7)} | parts if parts else {}
    with pytest.raises(ValueError, match=r"too many items|holds itself"):
        compiled(*fields, parts=parts)


_OWN_NAMES = re.compile(
    r"(bytes_)?v[0-9]+_[a-z0-9_]+|r[0-9]+_[a-z0-9_]+|part[0-9]_of_r[0-9]+_[a-z0-9_]+"
    r"|(labels|unpack|read|cel|open|cases|c|at|end|until|raw|list|group|item|case|key|plain|behind)_[a-zA-Z0-9_]+"
    r"|(crc_(8|16|32|64)|sum|xor|fletcher)_[a-z0-9_]+|f16|f32|f64|medfloat16|medfloat32|decimal_of|utf_8_of|rfc3339_m?s"
    r"|at|end|length|len|range|_|values|seen|address|sequence|frame|frames|found|version|older|newer|decode"
    r"|samples|answers|rejects|add_sample|add_answer|add_reject|record|reason|Struct|Labels|Decoded|Sample|Answer"
    r"|Reject|all_labels|join_items|number_items|from_bytes|key_of|EvaluationError"
)
_OWN_CALLS = {"unpack", "unpack_from", "hex", "append", "rstrip", "isascii", "decode", "startswith", "get", "pop"}


@given(structures())
def test_the_source_has_no_names_of_its_own_making(structure: Structure) -> None:
    """Whatever the profile, the source uses the generator's own vocabulary only."""
    for node in ast.walk(ast.parse(structure.codec.source)):
        if isinstance(node, ast.Name):
            assert _OWN_NAMES.fullmatch(node.id), node.id
        if isinstance(node, ast.Attribute):
            assert node.attr in _OWN_CALLS, node.attr
        assert not isinstance(node, ast.Import | ast.ImportFrom | ast.Lambda | ast.ClassDef)


EVIL = "a'] = __import__('os').abort() #"


@pytest.mark.parametrize("name", ["n", "list", "row", "x", "y", "c", "t", "z"])
def test_a_name_made_around_its_checks_is_refused_by_the_compiler(name: str) -> None:
    """Where the model's checks were skipped, the compiler's own refuse what must not enter source code."""
    sound = frame_of("""
        - {name: n, type: u8}
        - {name: list, type: array, count: n, of: {name: row, type: group, fields: [{name: x, type: u8}]}}
        - {type: switch, on: n, cases: {1: [{name: y, type: u8}]}, default: []}
        - {name: c, type: computed, value: 1 + 1}
        - {type: tlv, header: [{name: t, type: u8}], tag: t, items: {1: [{name: z, type: u8}]}}
    """).profile
    frame = sound.frames["only"]
    assert isinstance(frame, Frame)
    fields = _renamed(frame.fields, name)
    assert fields != frame.fields
    held = dict(sound) | {"frames": {"only": frame.model_copy(update={"fields": fields})}}
    with pytest.raises(ProfileError, match=r"cannot be a name"):
        compile_profile(Profile.model_construct(**held))


def _renamed(node: Any, name: str) -> Any:
    """A part of a declaration in which another name stands for this one wherever it stands, without any checks."""
    if isinstance(node, tuple):
        return tuple(_renamed(each, name) for each in node)
    if isinstance(node, dict):
        return {key: _renamed(each, name) for key, each in node.items()}
    if isinstance(node, BaseModel):
        return node.model_copy(update={key: _renamed(each, name) for key, each in node})
    return EVIL if node == name else node
