"""The base of everything that is declared in a file: the configuration, and device profiles.

What a key means stands as text below it. pydantic could read these texts when a class is made, by parsing its module
once for each class: a third of a second at every start, for what only a schema shows. So they are read when a schema is
asked for.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import textwrap
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_Model = TypeVar("_Model", bound=BaseModel)


class Settings(BaseModel):
    """Base of every declared setting: immutable, a key nobody knows is an error, and no number is infinite or none."""

    # What validates a class is built when it is first needed: most are only parts of another. See also `validated`.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        """The JSON schema, with the texts below the keys as their descriptions."""
        schema = handler(core_schema)
        properties: dict[str, Any] = handler.resolve_ref_schema(schema).get("properties", {})
        for name, info in cls.model_fields.items():
            described = properties.get(info.alias or name)
            text = _texts(cls).get(name)
            if described is not None and text and "description" not in described:
                described["description"] = text
        return schema


def validated(model: type[_Model], document: object) -> _Model:
    """Make a model of a document, as its own `model_validate` does, which would keep for ever what that takes.

    That is 50 ms to make, and 2 MiB of memory until `forget_validators` is called.

    Raises:
        pydantic.ValidationError: something in it is wrong.
    """
    adapter: TypeAdapter[_Model] = _validator(model)
    return adapter.validate_python(document)


@functools.cache
def _validator(model: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(model)


def forget_validators() -> None:
    """All documents have been read, and a gateway that runs for years need not carry what read them."""
    _validator.cache_clear()


@functools.cache
def _texts(cls: type[Settings]) -> dict[str, str]:
    """The text below each key of a class and of those it is based on."""
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if issubclass(each, Settings) and each is not Settings:
            texts |= _own_texts(each)
    return texts


def _own_texts(cls: type[Settings]) -> dict[str, str]:
    try:
        source = inspect.getsource(cls)
    except OSError:
        return {}  # a generic class with its parameters filled in has no source; the one it was made of has
    tree = ast.parse(textwrap.dedent(source))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    texts = {}
    for key, below in itertools.pairwise(body):
        match key, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = inspect.cleandoc(text)
    return texts


def one_or_many(value: Any) -> Any:
    """Let one thing stand for a list of one; for a `BeforeValidator`, with `OneOrManySchema` behind it."""
    return value if isinstance(value, (list, tuple)) else [value]


class OneOrManySchema:
    """Tells editors what `one_or_many` tells pydantic."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(core_schema)
        return {"anyOf": [many["items"], many]}
