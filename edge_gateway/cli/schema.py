"""`edge-gateway schema`: the JSON Schema of the configuration or of a device profile, for editors and the twin."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import orjson
import typer
from pydantic import BaseModel

from edge_gateway.codec import Profile
from edge_gateway.config.explain import explain_settings
from edge_gateway.config.model import GatewayConfig


class Document(StrEnum):
    """What a schema can be printed of."""

    config = "config"
    profile = "profile"


def command(
    document: Annotated[Document, typer.Argument(help="Which file's schema.")] = Document.config,
    markdown: Annotated[bool, typer.Option(help="Print a reference for people instead.")] = False,
) -> None:
    """Print the JSON Schema of `gateway.yaml` or of a device profile."""
    model: type[BaseModel] = GatewayConfig if document is Document.config else Profile
    if markdown:
        title = "gateway.yaml" if document is Document.config else "Device profiles"
        typer.echo(explain_settings(model, title=title), nl=False)
        return
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    typer.echo(orjson.dumps(schema, option=orjson.OPT_INDENT_2))
