"""YAML as people type it and machines send it: YAML 1.2's core schema, read strictly.

Only `true` and `false` are booleans (a name like `on` stays text), `12:30` and `010` are not numbers in disguise, a
repeated key is an error and not the loss of the first, and aliases are refused, with which a few lines could unfold
into gigabytes. JSON is YAML 1.2, too, so what a twin brings reads the same.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from edge_gateway.errors import GatewayError


class _NotAllowed(yaml.YAMLError):
    """YAML that no file of ours uses."""

    def __init__(self, what: str, line_index: int, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.line_number = line_index + 1
        self.remedy = remedy


_SURROGATE = re.compile("[\ud800-\udfff]")


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, without aliases, tags and repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 -- PyYAML's name for it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave this one out
        line_index = event.start_mark.line if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise _NotAllowed(f"the alias *{event.anchor}", line_index, "Write out what it stands for")
        if getattr(event, "tag", None) is not None:
            raise _NotAllowed("a tag (!)", line_index, "Leave it out, or put text that starts with ! in quotes")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text = super().construct_scalar(node)
        if _SURROGATE.search(text):
            # JSON writes a character beyond U+FFFF as two escapes, which PyYAML does not join.
            try:
                return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            except UnicodeDecodeError:
                line_index = node.start_mark.line
                raise _NotAllowed("half a character (\\ud800 to \\udfff)", line_index, "Write both halves") from None
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _NotAllowed("a list or mapping as a key", key_node.start_mark.line, "Use a name or a number")
            key = self.construct_object(key_node)
            if key in seen:
                line_index = key_node.start_mark.line
                raise _NotAllowed(f"the key {key!r} is there twice", line_index, "Keep one of the two")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first_characters in (
    ("bool", "true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", "[-+]?(?:0|[1-9][0-9]{0,19})|0x[0-9a-fA-F]{1,16}|0b[01]{1,64}", [*"-+0123456789"]),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]{1,3})?|[-+]?[0-9]+[eE][-+]?[0-9]{1,3}",
        [*"-+.0123456789"],
    ),
):
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), _first_characters
    )


def parse_yaml(text: str, *, where: str, error_type: type[GatewayError]) -> Any:
    """Parse one document.

    Args:
        text: the whole document.
        where: the file or twin property it is from, for errors.
        error_type: what to raise.

    Raises:
        GatewayError: of `error_type`: it is not YAML, or uses more of YAML than it should; `where` names the line.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 -- the loader is the safe one, made stricter
    except _NotAllowed as error:
        raise error_type(error.what, where=f"{where}:{error.line_number}", remedy=error.remedy) from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise error_type(error.problem or "not YAML", where=f"{where}{line}", remedy="Mend the YAML there") from error
    except (yaml.YAMLError, RecursionError) as error:
        what = "characters that YAML forbids, or nested too deeply"
        raise error_type(what, where=where, remedy="Save it as UTF-8 text") from error
