"""Uplinks: which hub, as whom, and how messages are brought to it."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from edge_gateway.config.names import HostName, Name
from edge_gateway.config.settings import Settings


class DeliverySettings(Settings):
    """How messages are brought to the hub."""

    in_flight: int = Field(default=8, ge=1, le=100, description="Messages sent and not yet confirmed, at most.")
    confirm_timeout_s: float = Field(
        default=20.0,
        gt=0,
        le=600,
        description="A message not confirmed for so long means that the link is silent: connect anew.",
    )
    keep_alive_s: int = Field(default=15, ge=5, le=1177, description="MQTT keep-alive.")
    connect_timeout_s: float = Field(default=20.0, gt=0, le=300, description="For name, TCP, TLS and CONNACK together.")
    retry_first_s: float = Field(default=1.0, gt=0, description="First pause before connecting again.")
    retry_most_s: float = Field(
        default=60.0,
        gt=0,
        description="The pause doubles up to this; each is jittered between half and whole.",
    )


class SensorSessionSettings(Settings):
    """Sessions of sensors with identities of their own, which `edge-gateway provision leaves` makes."""

    hold: bool = Field(
        default=True,
        description="Keep each connected, so that commands reach it. Otherwise each connects when it has something to "
        "send, and commands wait for that.",
    )
    most_sessions: int = Field(default=1000, ge=1, le=10_000, description="Connected at once, at most.")
    connects_per_s: float = Field(
        default=20.0,
        gt=0,
        le=1000,
        description="Connect no faster than this. IoT Hub takes 100 a second in its small tiers, of all its devices.",
    )
    idle_s: float = Field(
        default=60.0, ge=1, le=86_400, description="Without `hold`, a session ends after so long with nothing to do."
    )


# Not shown in errors: whoever misreads the word puts the key itself here.
CertificateKeyName: TypeAlias = Annotated[
    Name | None,
    Field(
        default=None,
        description="The name of that key where it stays in the TPM, in place of a file; `edge-gateway keys csr` makes "
        "it. Needs `key_store: {kind: tpm}`.",
        examples=["gateway-tls"],
        repr=False,
    ),
]


def _check_certificate(certificate_file: Path | None, private_key_file: Path | None, key: str | None) -> None:
    """Refuse a key without its certificate, and two keys to one."""
    for name, value in (("private_key_file", private_key_file), ("certificate_key", key)):
        if value is not None and certificate_file is None:
            raise ValueError(f"`{name}` needs a `certificate_file`, the certificate the key belongs to")
    if private_key_file is not None and key is not None:
        raise ValueError(
            "`private_key_file` and `certificate_key` are two keys to one certificate; keep the one it was made for"
        )


class IotHubUplink(Settings):
    """Azure IoT Hub under the gateway's own device identity, and each sensor's that has one."""

    kind: Literal["iot-hub"] = "iot-hub"
    # Not shown in errors: whoever misreads the word puts the connection string with its key here.
    host_name: HostName | None = Field(
        default=None,
        description="The hub. Left out together with `device_id`, both are what `edge-gateway provision` has found.",
        examples=["plant.azure-devices.net"],
        repr=False,
    )
    device_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9\-.%_*?!(),=@$':]+$",
        description="This gateway's name at the hub; without `+` and `#`, for which MQTT has no topic.",
        examples=["gw-17"],
    )
    # Not shown in errors: whoever misreads the word puts the secret itself here.
    key: Name = Field(
        default="gateway",
        description="Name of the device's symmetric key in the key store; `edge-gateway keys import` puts it there.",
        examples=["gateway"],
        repr=False,
    )
    certificate_file: Path | None = Field(
        default=None,
        description="Certificate chain (PEM) to prove the identity by, in place of the symmetric key.",
        examples=["gateway.pem"],
    )
    private_key_file: Path | None = Field(
        default=None, description="The key to that certificate (PEM).", examples=["gateway.key"]
    )
    certificate_key: CertificateKeyName = None
    gateway_host_name: HostName | None = Field(
        default=None,
        description="The IoT Edge device to go through as its parent, in place of the hub itself.",
        examples=["edge.plant.example.com"],
    )
    ca_file: Path | None = Field(
        default=None,
        description="Certificates (PEM) to trust instead of the system's, for a hub of one's own.",
        examples=["hub-ca.pem"],
    )
    token_lifetime_s: int = Field(default=3600, ge=300, le=86_400, description="How long a SAS token lives.")
    sensors: SensorSessionSettings = SensorSessionSettings.model_construct()
    """Sensors with identities of their own."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.host_name is None) != (self.device_id is None):
            raise ValueError(
                "give both `host_name` and `device_id`, or neither, to take what `edge-gateway provision` has found"
            )
        _check_certificate(self.certificate_file, self.private_key_file, self.certificate_key)
        if self.certificate_file is not None and self.private_key_file is None and self.certificate_key is None:
            raise ValueError("`certificate_file` needs its key; give `private_key_file`, or `certificate_key` in a TPM")
        if self.host_name is None and self.certificate_file is not None:
            raise ValueError(
                "`certificate_file` needs `host_name` and `device_id`; `edge-gateway provision` remembers its own"
            )
        return self


_PLACES_IN: Final = {
    "topic": ("gateway", "lane", "message_id"),
    "command_topic": ("gateway",),
    "answer_topic": ("gateway", "request"),
}
"""What is filled in, by setting."""


def _is_topic_filter(text: str) -> bool:
    """OASIS MQTT 3.1.1, section 4.7.1."""
    levels = text.split("/")
    return all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels) and "#" not in levels[:-1]


_ANYTHING: Final = "\0"
"""In a topic, for what is filled in when a message is sent; no topic has it otherwise."""


def _takes_in(topic_filter: str, topic: str) -> bool:
    """Whether a subscription may bring what goes to a topic. OASIS MQTT 3.1.1, section 4.7.1."""
    for wanted, level in itertools.zip_longest(topic_filter.split("/"), topic.split("/")):
        if wanted == "#":
            return True
        if wanted is None or level is None or (wanted not in ("+", level) and _ANYTHING not in level):
            return False
    return True


class MqttUplink(Settings):
    """Any MQTT 3.1.1 broker over TLS."""

    kind: Literal["mqtt"] = "mqtt"
    host: HostName = Field(examples=["broker.example.com"])
    port: int = Field(default=8883, ge=1, le=65_535)
    """A port that speaks TLS; there is no other way to a broker."""
    client_id: str | None = Field(default=None, description="The gateway's name if left out.", examples=["plant-3"])
    topic: str = Field(
        min_length=1,
        default="edge-gateway/{gateway}/{lane}/{message_id}",
        description="Where messages go. `{gateway}`, `{lane}` and `{message_id}` are filled in; the message id lets a "
        "receiver drop repeats.",
    )
    command_topic: str = Field(
        min_length=1,
        default="edge-gateway/{gateway}/commands/+",
        description="Where commands come from; `{gateway}` is filled in, and the last level is echoed in the answer.",
    )
    answer_topic: str = Field(
        min_length=1,
        default="edge-gateway/{gateway}/answers/{request}",
        description="Where answers go. `{gateway}` is filled in, and `{request}` with the command topic's last level.",
    )
    username: str | None = Field(default=None, examples=["plant-3"])
    password_file: Path | None = Field(
        default=None, description="File with the password, readable by the gateway only.", examples=["password.txt"]
    )
    ca_file: Path | None = Field(
        default=None, description="Certificates (PEM) to trust instead of the system's.", examples=["broker-ca.pem"]
    )
    certificate_file: Path | None = Field(
        default=None, description="Client certificate chain (PEM).", examples=["gateway.pem"]
    )
    private_key_file: Path | None = Field(
        default=None, description="The client certificate's key (PEM).", examples=["gateway.key"]
    )
    certificate_key: CertificateKeyName = None

    @field_validator(*_PLACES_IN)
    @classmethod
    def _fillable(cls, template: str, info: ValidationInfo) -> str:
        places = _PLACES_IN[str(info.field_name)]
        would_do = f"{cls.model_fields[str(info.field_name)].default!r} would do"
        try:
            parts = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"cannot be filled in ({error}); {would_do}") from error
        for _, place, form, conversion in parts:
            if place is not None and (place not in places or form or conversion):
                raise ValueError(f"nothing fills in {{{place}}}; {would_do}")
        if info.field_name == "command_topic":
            if not _is_topic_filter(template):
                raise ValueError(f"not a topic filter: `+` is a whole level and `#` the last; {would_do}")
        elif "+" in template or "#" in template:
            raise ValueError(f"a message cannot go to a topic with wildcards; {would_do}")
        return template

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Self:
        if self.password_file is not None and self.username is None:
            raise ValueError("`password_file` needs a `username`: MQTT 3.1.1 has no password without one")
        _check_certificate(self.certificate_file, self.private_key_file, self.certificate_key)
        return self

    def check_hears_no_echo(self, gateway: str, lanes: Iterable[str]) -> None:
        """Refuse a subscription that brings the gateway what it has sent.

        Args:
            gateway: its name.
            lanes: names of the buffer's.

        Raises:
            ValueError: each answer would be taken for the next command.
        """
        sent = [("topic", self.topic.format(gateway=gateway, lane=lane, message_id=_ANYTHING)) for lane in lanes]
        for key, topic in [*sent, ("answer_topic", self.answer_topic.format(gateway=gateway, request=_ANYTHING))]:
            if _takes_in(self.command_topic.format(gateway=gateway), topic):
                would_do = MqttUplink.model_fields["command_topic"].default
                raise ValueError(
                    f"`uplink.command_topic` takes in what `uplink.{key}` sends, so the gateway would answer itself "
                    f"without an end; {would_do!r} would do"
                )


UplinkSettings: TypeAlias = Annotated[IotHubUplink | MqttUplink, Field(discriminator="kind")]
