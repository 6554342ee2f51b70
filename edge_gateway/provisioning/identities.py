"""What a hub knows this gateway and its sensors by: one file, `identities.json`, with nothing secret in it.

Two devices never have the same identity: the hub would let in one at a time and cut the other off, and nobody could
tell whose readings they are. Several commands may write at once; each takes the directory's lock, reads, and replaces
the whole file, so a power cut leaves the old one or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, get_args

import orjson

from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import ConfigError
from edge_gateway.keystore.key_files import refuse_if_wiped
from edge_gateway.provisioning.registration import Registration

IDENTITIES_FILE: Final = "identities.json"
"""In the data directory."""

MOST_IDENTITIES: Final = 10_000
_MOST_FILE_BYTES: Final = 16 << 20
"""Ten thousand of the longest."""
_VERSION: Final = 1

Method: TypeAlias = Literal["connection-string", "dps-symmetric-key", "dps-group", "dps-x509", "dps-tpm", "csv"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Of devices in the configuration, and of keys in the key store."""
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9\-.%_*?!(),=@$':]{1,128}")
"""IoT Hub's rule for device ids, without `+` and `#`: MQTT has no topic for a device that is called so."""
_REGISTRATION_ID: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?")
"""The provisioning service's rule for registration ids."""
_MOST_PATH_CHARACTERS: Final = 4096

_KEPT_CHARACTERS: Final = 40
_DIGEST_CHARACTERS: Final = 12


def is_device_name(text: str) -> bool:
    """Whether a configuration can call a device so."""
    return _NAME.fullmatch(text) is not None


def is_host_name(text: str) -> bool:
    """Whether this can be a host's name, or its IPv4 address."""
    return _HOST_NAME.fullmatch(text) is not None


def is_device_id(text: str) -> bool:
    """Whether a hub can call a device so that speaks MQTT."""
    return _DEVICE_ID.fullmatch(text) is not None


def is_registration_id(text: str) -> bool:
    """Whether the provisioning service can call a device so."""
    return _REGISTRATION_ID.fullmatch(text) is not None


def leaf_key_name(device: str) -> str:
    """What the key store calls a sensor's key: `leaf.` and the sensor's name, shortened by a hash if that is too long.

    Args:
        device: its name in the configuration.
    """
    name = f"leaf.{device}"
    if _NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(device.encode()).hexdigest()
    return f"leaf.{device[:_KEPT_CHARACTERS]}.{digest[:_DIGEST_CHARACTERS]}"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a hub knows this gateway, or one of its sensors, by. Nothing in it is secret.

    Raises:
        ConfigError: a member cannot be what it should be.
    """

    device: str
    """The gateway's name for the sensor; empty for the gateway itself."""
    host_name: str
    """The hub's."""
    device_id: str
    """At the hub."""
    key: str
    """Name in the key store; empty if it proves itself by certificate."""
    method: Method
    """How it was had."""
    gateway_host_name: str = ""
    """The IoT Edge device to go through, if any."""
    certificate_file: str = ""
    """The certificate and those between it and its root, PEM; `dps-x509` only."""
    private_key_file: str = ""
    """The key to it, PEM; `dps-x509` only."""
    certificate_key: str = ""
    """Name of the key to it in the key store, in place of a file; likewise."""
    registration: str = field(default="", compare=False)
    """Where it was had, for when it has to be had again: `Registration.address`. Empty if by no service."""
    registration_ca_file: str = field(default="", compare=False)
    """`Registration.ca_file`; empty for the system's certificates."""

    def __post_init__(self) -> None:
        has_certificate = self.method == "dps-x509"
        files = (self.certificate_file, self.private_key_file)
        keys = (self.private_key_file, self.certificate_key)
        paths = (*files, self.registration_ca_file)
        wrong = [
            member
            for member, is_right in (
                ("device", not self.device or is_device_name(self.device)),
                ("host_name", is_host_name(self.host_name)),
                ("device_id", is_device_id(self.device_id)),
                ("key", not self.key if has_certificate else _NAME.fullmatch(self.key)),
                ("method", self.method in get_args(Method)),
                ("gateway_host_name", not self.gateway_host_name or is_host_name(self.gateway_host_name)),
                ("certificate_file", bool(self.certificate_file) == has_certificate),
                ("private_key_file or certificate_key", sum(map(bool, keys)) == has_certificate),
                ("certificate_key", not self.certificate_key or _NAME.fullmatch(self.certificate_key)),
                ("a path", all(len(each) <= _MOST_PATH_CHARACTERS and "\0" not in each for each in paths)),
                ("registration", self._is_registration()),
            )
            if not is_right
        ]
        if wrong:
            raise ConfigError(
                f"{', '.join(wrong)} cannot be used",
                where=f"the identity of {self.device or 'the gateway'}",
                remedy="Compare it with what the hub shows",
            )

    def _is_registration(self) -> bool:
        if not self.registration:
            return not self.registration_ca_file
        try:
            Registration.parse(self.registration)
        except ConfigError:
            return False
        return True

    @property
    def told(self) -> str:
        """Whose it is, for a person."""
        return f"the sensor {self.device}" if self.device else "the gateway"

    @property
    def at_hub(self) -> tuple[str, str]:
        """What no two identities may share: the hub, whose name is the same in upper and lower case, and the id."""
        return self.host_name.lower(), self.device_id


class Identities:
    """The identities of one gateway.

    Args:
        path: their file; there need be none yet.

    Raises:
        ConfigError: the file is there and cannot be read, or is none of ours.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identities: Mapping[str, Identity] = self._read()

    @property
    def own(self) -> Identity | None:
        """The gateway's."""
        return self._identities.get("")

    @property
    def leaves(self) -> Mapping[str, Identity]:
        """The sensors', by their names in the configuration, sorted."""
        return MappingProxyType({device: each for device, each in self._identities.items() if device})

    def __iter__(self) -> Iterator[Identity]:
        """The gateway's first, if it has one, then the sensors'."""
        return iter(self._identities.values())

    def put(self, *identities: Identity) -> None:
        """Keep identities, each in the place of an older one of its device, safe from a power cut when this returns.

        Raises:
            ConfigError: two devices would have the same identity or the same key, or there would be too many; or the
                file cannot be written. Nothing was changed.
            KeyStoreError: all keys were wiped.
        """
        with self._locked():
            changed = {**self._read(), **{each.device: each for each in identities}}
            check_distinct(changed.values())
            self._write(changed)

    def check(self, *identities: Identity) -> None:
        """Find out whether these could be put, before a key is in the way.

        Raises:
            ConfigError: two devices would have the same identity or the same key, or there would be too many.
        """
        check_distinct({**self._identities, **{each.device: each for each in identities}}.values())

    def remove(self, device: str) -> None:
        """Forget the identity of a sensor, or with an empty name the gateway's.

        Raises:
            ConfigError: it has none, or the file cannot be written.
        """
        with self._locked():
            left = dict(self._read())
            if left.pop(device, None) is None:
                raise ConfigError(
                    "there is no such identity",
                    where=f"{device or 'the gateway'} in {self._path}",
                    remedy="See `edge-gateway provision list`",
                )
            self._write(left)

    def _read(self) -> Mapping[str, Identity]:
        try:
            with self._path.open("rb") as file:
                content = file.read(_MOST_FILE_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}", where=str(self._path), remedy="Run as the gateway's user"
            ) from error
        if len(content) > _MOST_FILE_BYTES:
            raise self._unreadable(f"it is larger than {_MOST_FILE_BYTES} bytes")
        return self._parse(content)

    def _parse(self, content: bytes) -> Mapping[str, Identity]:
        try:
            document: Any = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise self._unreadable("it is not JSON") from error
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise self._unreadable(f"it is not of version {_VERSION}")
        entries = document.get("identities")
        if not isinstance(entries, list) or not all(_is_flat(entry) for entry in entries):
            raise self._unreadable("its identities are no list of objects with texts")
        try:
            identities = [Identity(**entry) for entry in entries]
            check_distinct(identities)
        except TypeError as error:
            raise self._unreadable("an identity has a member too many, or lacks one") from error
        except ConfigError as error:
            raise self._unreadable(str(error)) from error
        return {each.device: each for each in sorted(identities, key=lambda each: each.device)}

    def _unreadable(self, why: str) -> ConfigError:
        return ConfigError(
            f"cannot be understood: {why}",
            where=str(self._path),
            remedy="Bring it back from a backup; or remove it and provision again, under the same names at the hub",
        )

    def _write(self, identities: Mapping[str, Identity]) -> None:
        ordered = {device: identities[device] for device in sorted(identities)}
        entries = [{name: value for name, value in asdict(each).items() if value} for each in ordered.values()]
        # Written even if empty: the gateway's own has no device, and one by certificate no key.
        document = {"version": _VERSION, "identities": [{"device": "", "key": "", **entry} for entry in entries]}
        refuse_if_wiped(self._path)
        try:
            replace_durably(self._path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise self._unwritable(error) from error
        self._identities = ordered

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"cannot be written: {error.strerror}",
            where=str(self._path),
            remedy="Check the data directory's owner and space, and run as the gateway's user",
        )


def check_distinct(identities: Iterable[Identity]) -> None:
    """Refuse that two have the same name, identity or key, and more than `MOST_IDENTITIES`.

    Raises:
        ConfigError: it is so; the text names both.
    """
    owners: dict[object, Identity] = {}
    count = 0
    for count, identity in enumerate(identities, 1):  # noqa: B007  # counted on the way: an iterable has no length
        for what in (("device", identity.device), identity.at_hub, *([("key", identity.key)] if identity.key else [])):
            other = owners.setdefault(what, identity)
            if other is not identity:
                raise ConfigError(
                    f"{other.told} and {identity.told} would be one and the same ({' '.join(what)})",
                    where="identities",
                    remedy="Give each device an id of its own, or remove one: edge-gateway provision remove NAME",
                )
    if count > MOST_IDENTITIES:
        raise ConfigError(
            f"{count} identities are too many", where="identities", remedy=f"A gateway has at most {MOST_IDENTITIES}"
        )


def _is_flat(entry: object) -> bool:
    return isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values())
