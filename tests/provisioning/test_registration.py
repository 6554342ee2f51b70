"""What is kept of a registration says again where it was had, and a page that is none is refused."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError
from edge_gateway.provisioning.identities import Identities, Identity
from edge_gateway.provisioning.registration import Registration

_WORD = string.ascii_letters + string.digits
REGISTRATIONS = st.builds(
    Registration,
    st.text(_WORD, min_size=1, max_size=64),
    st.text(f"{_WORD}._:-", min_size=1, max_size=128),
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?", fullmatch=True),
    st.integers(1, 65_535),
)


@given(REGISTRATIONS)
def test_what_is_written_is_read(registration: Registration) -> None:
    """Any scope, name, host and port."""
    assert Registration.parse(registration.address) == registration


@given(st.text(max_size=300) | REGISTRATIONS.map(lambda each: f"{each.address}/x"))
def test_what_is_none_is_refused(text: str) -> None:
    """Or read as what is written just so; nothing else is ever raised."""
    try:
        registration = Registration.parse(text)
    except ConfigError:
        return
    assert registration.address == text


@pytest.mark.parametrize(
    "address",
    [
        "http://dps.example/0ne1/registrations/a",
        "https://user:word@dps.example/0ne1/registrations/a",
        "https://dps.example:0443/0ne1/registrations/a",
        "https://dps.example:99999/0ne1/registrations/a",
        "https://dps.example/0ne1/registrations/a?b",
        "https://dps.example/0ne1/registrations/",
        "https://dps.example/0ne1/operations/a",
        "https://[/0ne1/registrations/a",
    ],
)
def test_what_only_looks_like_one(address: str) -> None:
    """Another scheme, a user, another way to write the same: the service is never guessed."""
    with pytest.raises(ConfigError, match="is no registration at a provisioning service"):
        Registration.parse(address)


def test_the_place_is_kept_with_the_identity(tmp_path: Path) -> None:
    """It is there after a restart, and does not make an identity another one."""
    kept = Identity("", "hub.example", "a", "gateway", "dps-tpm", registration="https://d.example/0ne1/registrations/a")
    Identities(tmp_path / "identities.json").put(kept)
    read = Identities(tmp_path / "identities.json").own
    assert read == Identity("", "hub.example", "a", "gateway", "dps-tpm")
    assert read is not None
    assert read.registration == kept.registration


@pytest.mark.parametrize("members", [{"registration": "nowhere"}, {"registration_ca_file": "/ca.pem"}])
def test_an_identity_with_half_a_place(members: dict[str, str]) -> None:
    """Is refused as a whole, as everything in that file."""
    with pytest.raises(ConfigError, match="registration cannot be used"):
        Identity("", "hub.example", "a", "gateway", "dps-tpm", **members)
