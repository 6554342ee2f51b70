"""Whether the configuration can be used: as `edge-gateway check`, but each mistake under its own id."""

from __future__ import annotations

from typing import Final

from edge_gateway.assembly import check_parts
from edge_gateway.assembly.keys import make_key_store
from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.config.load import load_config
from edge_gateway.doctor.finding import Fault, Finding, Findings
from edge_gateway.doctor.site import Site
from edge_gateway.doctor.user import User
from edge_gateway.errors import CodecError, ConfigError

MISSING: Final = Fault(
    "configuration.missing",
    "there is no configuration {config}",
    "If it is elsewhere, name it: `--config FILE`. To begin with one: `echo '{example}' | sudo install -D -m 644 "
    "/dev/stdin {config}`, then put this box's name, port and profile in (`edge-gateway profiles list` lists them)",
)
CLOSED: Final = Fault(
    "configuration.closed",
    "{user} may not read the configuration {config}",
    "Run this command, and the gateway, as who may, or let {user} read it: `sudo chmod a+r {config}` and `a+x` on its "
    "directories; secrets never stand in it",
)
FILE_INVALID: Final = Fault("configuration.invalid", "the configuration cannot be used: {what}", "{remedy}")
PROFILE_UNUSABLE: Final = Fault(
    "configuration.profile", "the device profile {profile} of the link {link} cannot be used: {what}", "{remedy}"
)
PARTS_INVALID: Final = Fault(
    "configuration.contradiction", "the configuration's parts do not fit together: {what}", "{remedy}"
)

_LOOK_HERE: Final = "Mend the file; `edge-gateway schema` prints all settings"
FIRST_CONFIGURATION: Final = (
    "{gateway: {name: plant-3}, links: [{name: port-a, port: {path: /dev/ttyUSB0}, profile: reference-climate}], "
    "uplink: {kind: iot-hub}}"
)
"""The least that a gateway needs; it reads a sensor from its first start on, and is provisioned later."""


def load(site: Site) -> Findings:
    """Read the configuration's file."""
    try:
        site.learnt.config = load_config(site.config_file)
    except ConfigError as error:
        match error.__cause__:
            case FileNotFoundError():
                return [MISSING.found(config=site.config_argument, example=FIRST_CONFIGURATION)]
            case PermissionError():
                return [CLOSED.found(config=site.config_argument, user=User.current().name)]
        return [FILE_INVALID.found(error.where, what=error.what, remedy=error.remedy or _LOOK_HERE)]
    return []


def load_profiles(site: Site) -> Findings:
    """Load and compile the profile of each link."""
    found: list[Finding] = []
    codecs = {}
    for link in site.config.links:
        try:
            codecs[link.profile] = compile_profile(load_profile(link.profile, site.config.gateway.profile_directories))
        except (CodecError, ConfigError) as error:
            remedy = error.remedy or "Mend the profile; `edge-gateway profiles` lists those there are"
            found.append(
                PROFILE_UNUSABLE.found(
                    error.where, profile=link.profile, link=link.name, what=error.what, remedy=remedy
                )
            )
    site.learnt.codecs = codecs
    return found


def check(site: Site) -> Findings:
    """Put the parts together, without opening one."""
    try:
        check_parts(site.config, clock=site.clock)
    except (ConfigError, CodecError) as error:
        if str(error) == _key_store_error(site):
            return []  # told where the key store is looked at
        return [PARTS_INVALID.found(error.where, what=error.what, remedy=error.remedy or _LOOK_HERE)]
    return []


def _key_store_error(site: Site) -> str | None:
    try:
        make_key_store(site.config).close()
    except ConfigError as error:
        return str(error)
    return None
