"""Reads `gateway.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.problems import problems
from edge_gateway.errors import ConfigError

MAX_CONFIG_BYTES = 1 << 20


class UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, where plain YAML lets the last one win in silence."""


def _mapping(loader: UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, error_type: type[ConfigError] = ConfigError) -> Any:
    """Parse one small YAML file.

    Raises:
        ConfigError: the file is missing, unreadable, too large, or not YAML; the text names the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise error_type(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Give the path of a YAML file"
        ) from error
    if len(content) > MAX_CONFIG_BYTES:
        raise error_type(f"is larger than {MAX_CONFIG_BYTES} bytes", where=str(path), remedy="Split it")
    try:
        return yaml.load(content, UniqueKeyLoader)  # noqa: S506  # a SafeLoader with one more check
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise error_type(f"is not valid YAML: {what}", where=where, remedy="Mend that line") from error


def load_config(path: Path) -> GatewayConfig:
    """Read and check a configuration; relative paths in it start at its own directory.

    Raises:
        ConfigError: the file or a setting is wrong; the text names each key, its value and one that would do.
    """
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise ConfigError("is not a mapping of settings", where=str(path), remedy="Start it with `gateway:`")
    return parse_config(document, where=str(path), directory=path.resolve().parent)


def parse_config(document: dict[str, Any], *, where: str, directory: Path) -> GatewayConfig:
    """Check a configuration that is already parsed, e.g. from a twin.

    Args:
        document: what YAML or JSON gave.
        where: named in errors.
        directory: where relative paths start.

    Raises:
        ConfigError: a setting is wrong.
    """
    try:
        config = GatewayConfig.model_validate(document)
    except ValidationError as error:
        found = problems(error, GatewayConfig)
        raise ConfigError("; ".join(found), where=where, remedy="See `edge-gateway schema`") from error
    return _anchored(config, directory)


def _anchored(config: GatewayConfig, directory: Path) -> GatewayConfig:
    """Make every path absolute, so that the meaning of a configuration does not depend on where the process runs."""
    gateway = config.gateway.model_copy(
        update={
            "data_directory": directory / config.gateway.data_directory,
            "profile_directories": tuple(directory / each for each in config.gateway.profile_directories),
        }
    )
    files = {key: directory / value for key, value in config.uplink if key.endswith("_file") and value is not None}
    links = tuple(
        link.model_copy(
            update={
                "port": link.port.model_copy(update={"replay": directory / link.port.replay})
                if hasattr(link.port, "replay")
                else link.port,
                "profile": str(directory / link.profile) if link.profile.endswith((".yaml", ".yml")) else link.profile,
            }
        )
        for link in config.links
    )
    return config.model_copy(
        update={"gateway": gateway, "links": links, "uplink": config.uplink.model_copy(update=files)}
    )
