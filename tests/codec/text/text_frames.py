"""Text frames drawn at random, and lines that nearly are such frames, for the property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from edge_gateway.codec.text import BlockFrame, ListFrame, TextFrame

LIST_FORMS: list[dict[str, Any]] = [
    {"separator": ","},
    {"separator": ";", "start": "#", "end": "!"},
    {"separator": ",", "start": "$", "end": "*", "checksum": {"algorithm": "xor-8", "covers": "between"}},
    {"separator": ", ", "end": "*", "checksum": {"algorithm": "crc-16/modbus", "endian": "little"}},
    {"separator": "|", "start": "<", "end": ">", "checksum": {"algorithm": "crc-16/arc", "padded": False}},
    {"separator": ",", "end": "*", "checksum": {"algorithm": "sum-8", "form": "bytes"}, "empty": ["---", "NaN"]},
    {"separator": ",", "padding": " ", "empty": ["---"]},
]

BLOCK_FORMS: list[dict[str, Any]] = [
    {"line_break": ",", "opens": "="},
    {"opens": "(", "separator": ")(", "closes": ")", "start": "/", "end": "\r\n!", "continues": "("},
    {
        "opens": "\t",
        "start": "\r\n",
        "end": "\r\nChecksum\t",
        "checksum": {"algorithm": "sum-8/negated", "form": "bytes"},
        "asides": {"start": ":", "end": "\n"},
        "empty": ["---"],
    },
    {
        "opens": "(",
        "separator": ")(",
        "closes": ")",
        "start": "/",
        "end": "\r\n!",
        "checksum": {"algorithm": "crc-16/arc", "padded": False},
    },
]

_affixes: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{}, {}, {"prefix": "T~"}, {"suffix": "C"}, {"prefix": "T~", "suffix": "~kWh"}, {"required": True}]
)


@st.composite
def _plain(draw: st.DrawFn, name: str, *, takes_affixes: bool = True) -> dict[str, Any]:
    kind = draw(
        st.sampled_from(["integer", "decimal", "text", "flag", "clock", "date", "timestamp", "latitude", "longitude"])
    )
    keys: dict[str, Any] = {"name": name, "type": kind}
    more: list[dict[str, Any]] = [{}]
    match kind:
        case "integer":
            more = [
                {},
                {"base": 16},
                {"digits": 3},
                {"base": 16, "digits": 4},
                {"scale": "0.1", "unit": "V", "sentinel": [-1, {"minimum": 900, "maximum": 999}]},
                {"enum": {0: "off", 3: "bulk"}},
                {"scale": "0.01", "valid": {"minimum": -1, "maximum": 5}},
                {"valid": {"maximum": 50, "otherwise": "null"}, "sentinel": 99},
            ]
        case "decimal":
            more = [
                {},
                {"scale": "1.852", "unit": "km/h"},
                {"scale": "-0.1", "offset": "40"},
                {"sentinel": [99.9, -1]},
                {"valid": {"minimum": -40, "maximum": 85}, "sentinel": 999},
                {"scale": "0.001", "valid": {"maximum": 2, "otherwise": "null"}},
            ]
        case "text":
            more = [{}, {"length": 2}, {"max_length": 5}, {"enum": {"A": "on", "Vv": "void"}}, {"encoding": "utf-8"}]
        case "flag":
            keys |= {"on": "ON", "off": "O"}
        case "date":
            keys["format"] = draw(st.sampled_from(["ddmmyy", "yymmdd", "ddmmyyyy", "yyyymmdd"]))
        case "timestamp":
            more = [
                {"zones": {"W": "+01:00", "S": "+02:00"}},
                {"zone": "Z"},
                {"zone": "-03:30", "format": "yyyymmddhhmmss"},
            ]
    keys.update(draw(st.sampled_from(more)))
    if takes_affixes and kind not in ("latitude", "longitude"):
        keys.update(draw(_affixes))
    if draw(st.integers(0, 7)) == 0:
        keys["emit"] = False
    return keys


def _ways(first: str) -> dict[str, Any]:
    return {
        "type": "choice",
        "of": [
            {"name": first, "type": "decimal", "suffix": "~kWh", "unit": "kWh"},
            {"name": first, "type": "decimal", "suffix": "~Wh", "scale": "0.001", "unit": "kWh"},
            {"name": f"{first}_word", "type": "text", "max_length": 4},
        ],
    }


@st.composite
def _columns(draw: st.DrawFn, prefix: str, *, most: int) -> list[dict[str, Any]]:
    columns = [draw(_plain(f"{prefix}{index}")) for index in range(draw(st.integers(1, most)))]
    kind = draw(st.sampled_from(["none", "none", "group", "choice", "count", "end", "clock"]))
    match kind:
        case "group":
            parts = [draw(_plain(f"g{index}")) for index in range(2)]
            columns.append({"name": f"{prefix}group", "type": "group", "columns": parts})
        case "choice":
            columns.append(_ways(f"{prefix}choice"))
        case "count":
            one = draw(_plain("each"))
            keys = {"skip_empty": draw(st.booleans()), "count": draw(st.integers(1, 3))}
            columns.append({"name": f"{prefix}list", "type": "array", "of": one, **keys})
        case "end":
            parts = [draw(_plain(f"g{index}")) for index in range(2)]
            group = {"name": "each", "type": "group", "columns": parts}
            columns.append({"name": f"{prefix}list", "type": "array", "of": group, "until": "end", "most": 3})
            return columns
        case "clock":
            columns.append({"name": f"{prefix}time", "type": "clock", "date": f"{prefix}day"})
            columns.append({"name": f"{prefix}day", "type": "date", "emit": draw(st.booleans())})
    more = [draw(_plain(f"{prefix}more{index}")) for index in range(draw(st.integers(0, 2)))]
    return [*columns, *({**column, "optional": True} for column in more)]


@st.composite
def list_frames(draw: st.DrawFn) -> ListFrame:
    """A line of random columns in one of several forms."""
    form = draw(st.sampled_from(LIST_FORMS))
    columns = draw(_columns("c", most=4))
    if draw(st.booleans()):
        columns.insert(0, {"name": "tag", "type": "text", "length": 2, "suffix": "RMC", "required": True})
    return ListFrame.model_validate({"role": "sample", "text": {"kind": "list", **form}, "columns": columns})


@st.composite
def block_frames(draw: st.DrawFn) -> BlockFrame:
    """A block of random lines in one of several forms."""
    form = draw(st.sampled_from(BLOCK_FORMS))
    most = 3 if "separator" in form else 1
    lines: dict[str, Any] = {}
    for index, label in enumerate(["V", "1-0:1.8.0", "H1"][: draw(st.integers(1, 3))]):
        if most == 1:
            column = draw(_plain(f"l{index}"))
            while column["type"] in ("latitude", "longitude"):
                column = draw(_plain(f"l{index}"))
            lines[label] = column
        else:
            lines[label] = draw(_columns(f"l{index}_", most=most))
    head = {"head": {"name": "head", "type": "text"}} if form.get("start") == "/" and draw(st.booleans()) else {}
    return BlockFrame.model_validate({"role": "sample", "text": {"kind": "block", **form}, "lines": lines, **head})


text_frames: st.SearchStrategy[TextFrame] = list_frames() | block_frames()

_PIECES = [
    *(b"", b"---", b"NaN", b" ", b"0", b"-1", b"+3", b"12", b"99", b"999", b"1.5", b"-0.05", b".5", b"5.", b"99.9"),
    *(b"A", b"ON", b"O", b"Vv", b"GPRMC", b"RMC", b"0aF1", b"123519", b"235960.5", b"191194", b"311220", b"20240229"),
    *(b"170102192002W", b"632525252525S", b"20240229120000", b"4916.45", b"N", b"S", b"12311.12", b"E", b"9100.00"),
    *(b"T~", b"C", b"~kWh", b"~Wh", b"000004.426", b"T~23.4C", b"12C", b"T~1~kWh", b"\xc3\xa9", b"\xff", b"word"),
    *(b"\r", b"\n", b"a\rb", b"a*b", b"a(b", b"a)b", b"a\tb", b"a=b", b"a;b", b"a|b", b"a b", b"\x00"),
]


@st.composite
def lines_like(draw: st.DrawFn, frame: TextFrame) -> bytes:
    """Bytes made of what such a frame is made of; some are frames, most nearly are."""
    form = frame.form
    marks = [form.start_bytes, form.end_bytes, form.style.separator, b"\r\n", b":7F0\n", b"("]
    if isinstance(frame, BlockFrame):
        marks += [frame.text.opens.encode(), (frame.text.closes or "").encode(), frame.text.line_break.encode()]
        marks += [label.encode() for label in frame.lines]
    pieces = st.sampled_from(_PIECES) | st.sampled_from(marks) | st.just(form.style.separator)
    return (
        form.start_bytes + b"".join(draw(st.lists(pieces, max_size=14))) + form.end_bytes + draw(st.binary(max_size=2))
    )


@st.composite
def cells_for(draw: st.DrawFn, frame: TextFrame) -> bytes:
    """A body with as many cells as there may be, each of which may fit."""
    style = frame.form.style

    def line(columns: Any) -> bytes:
        count = draw(st.integers(max(0, len(columns) - 1), len(columns) + 3))
        return style.separator.join(draw(st.sampled_from(_PIECES)) for _ in range(count))

    if isinstance(frame, ListFrame):
        return line(frame.columns)
    assert isinstance(frame, BlockFrame)
    lines = [] if frame.head is None else [b"head"]
    for label, columns in frame.lines.items():
        if draw(st.integers(0, 3)):
            closes = (frame.text.closes or "").encode()
            lines.append(label.encode() + frame.text.opens.encode() + line(columns) + closes)
    return frame.text.line_break.encode().join(lines)
