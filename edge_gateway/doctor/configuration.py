"""Whether the configuration can be used: as `edge-gateway check`, but each mistake under its own id."""

from __future__ import annotations

from typing import Final

from edge_gateway.assembly import check_parts
from edge_gateway.codec import compile_profile, load_profile
from edge_gateway.config.load import load_config
from edge_gateway.doctor.finding import Fault, Finding, Findings
from edge_gateway.doctor.site import Site
from edge_gateway.errors import CodecError, ConfigError

FILE_INVALID: Final = Fault("configuration.invalid", "the configuration cannot be used: {what}", "{remedy}")
PROFILE_UNUSABLE: Final = Fault(
    "configuration.profile", "the device profile {profile} of the link {link} cannot be used: {what}", "{remedy}"
)
PARTS_INVALID: Final = Fault(
    "configuration.contradiction", "the configuration's parts do not fit together: {what}", "{remedy}"
)

_LOOK_HERE: Final = "Mend the file; `edge-gateway schema` prints all settings"


def load(site: Site) -> Findings:
    """Read the configuration's file."""
    try:
        site.learnt.config = load_config(site.config_file)
    except ConfigError as error:
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
        return [PARTS_INVALID.found(error.where, what=error.what, remedy=error.remedy or _LOOK_HERE)]
    return []
