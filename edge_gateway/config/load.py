"""Reads `gateway.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from edge_gateway.config.devices import PathPort, PortSettings, ReplayPort
from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.problems import problems
from edge_gateway.config.settings import Settings, validated
from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import ConfigError

MAX_CONFIG_BYTES: Final = 1 << 20
"""A thousand devices are 40 KB. More is a wrong file, which a small box would parse for seconds."""

_PROFILE_FILE_ENDINGS: Final = (".yaml", ".yml", ".json")


def load_config(path: Path) -> GatewayConfig:
    """Read and check a configuration; relative paths in it start at its own directory.

    Raises:
        ConfigError: the file or a setting is wrong; the text names each key, its value and one that would do.
    """
    document = parse_yaml(_read(path), where=str(path), error_type=ConfigError)
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
        config = validated(GatewayConfig, document)
    except ValidationError as error:
        found = problems(error, GatewayConfig)
        raise ConfigError("; ".join(found), where=where, remedy="See `edge-gateway schema`") from error
    return _anchored(config, directory)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"is larger than {MAX_CONFIG_BYTES} bytes", where=str(path), remedy="Is it the right file?"
            )
        return content.decode()
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="Give the path of a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=str(path), remedy="Save it as UTF-8") from error


def _anchored(config: GatewayConfig, directory: Path) -> GatewayConfig:
    """Make every path absolute, so that the meaning of a configuration does not depend on where the process runs."""
    gateway = config.gateway.model_copy(
        update={
            "data_directory": directory / config.gateway.data_directory,
            "profile_directories": tuple(directory / each for each in config.gateway.profile_directories),
        }
    )
    links = tuple(
        link.model_copy(
            update={"port": _anchored_port(link.port, directory), "profile": _anchored_profile(link.profile, directory)}
        )
        for link in config.links
    )
    return config.model_copy(
        update={
            "gateway": gateway,
            "links": links,
            "uplink": config.uplink.model_copy(update=_anchored_files(config.uplink, directory)),
            "key_store": config.key_store.model_copy(update=_anchored_files(config.key_store, directory)),
        }
    )


def _anchored_files(settings: Settings, directory: Path) -> dict[str, Any]:
    anchored: dict[str, Any] = {}
    for key, value in settings:
        if isinstance(value, Settings):
            anchored[key] = value.model_copy(update=_anchored_files(value, directory))
        elif key.endswith("_file") and value is not None:
            anchored[key] = directory / value
    return anchored


def _anchored_port(port: PortSettings, directory: Path) -> PortSettings:
    match port:
        case PathPort():
            return port.model_copy(update={"path": str(directory / port.path)})
        case ReplayPort():
            return port.model_copy(update={"replay": directory / port.replay})
        case _:
            return port


def _anchored_profile(profile: str, directory: Path) -> str:
    """A name stays a name; what the codec takes for a path becomes absolute."""
    is_path = "/" in profile or profile.endswith(_PROFILE_FILE_ENDINGS)
    return str(directory / profile) if is_path else profile
