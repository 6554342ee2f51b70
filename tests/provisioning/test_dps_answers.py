"""What the provisioning service answers: read strictly, whatever comes."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.provisioning.dps_answers import (
    Assigned,
    Assigning,
    Disabled,
    Failed,
    Refusal,
    read_challenge,
    read_refusal,
    read_status,
)
from edge_gateway.provisioning.errors import ProvisioningUnavailable

ASSIGNED: dict[str, Any] = {
    "operationId": "5.0011223344556677.0f0e",
    "status": "assigned",
    "registrationState": {
        "registrationId": "gw-17",
        "assignedHub": "plant.azure-devices.net",
        "deviceId": "gw-17",
        "status": "assigned",
        "symmetricKey": {"enrollmentGroupId": "gateways"},
    },
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


def read(document: object) -> object:
    return read_status(orjson.dumps(document), where="gw-17")


def test_each_status() -> None:
    """Assigned with hub and id, assigning with the operation, failed with the service's words, disabled."""
    assert read(ASSIGNED) == Assigned("plant.azure-devices.net", "gw-17")
    assert read({"operationId": "5.00.11", "status": "assigning"}) == Assigning("5.00.11")
    assert read({"operationId": "5.00.11", "status": "unassigned"}) == Assigning("5.00.11")
    state = {"errorCode": 400209, "errorMessage": "Custom allocation failed"}
    assert read({"status": "failed", "registrationState": state}) == Failed(400209, "Custom allocation failed")
    assert read({"status": "failed"}) == Failed(0, "")
    assert read({"status": "disabled"}) == Disabled()


def test_a_tpms_key_comes_along() -> None:
    """With a TPM, the key at the hub is in the answer."""
    state = ASSIGNED["registrationState"] | {"tpm": {"authenticationKey": base64.b64encode(b"blob").decode()}}
    assert read(ASSIGNED | {"registrationState": state}) == Assigned("plant.azure-devices.net", "gw-17", b"blob")


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"status": "assigned"},
        {"status": "assigning"},
        {"status": "assigning", "operationId": ""},
        {"status": "assigning", "operationId": "x" * 257},
        {"status": "assigning", "operationId": "a\nb"},
        {"status": "elsewhere"},
        ASSIGNED | {"registrationState": ASSIGNED["registrationState"] | {"assignedHub": "a hub"}},
        ASSIGNED | {"registrationState": ASSIGNED["registrationState"] | {"deviceId": "a/b"}},
    ],
)
def test_what_cannot_be_acted_on(document: object) -> None:
    """Without a hub, an id or an operation in the form they have, it is an error."""
    with pytest.raises(ProvisioningUnavailable, match="gw-17: the answer cannot be understood"):
        read(document)


def test_a_log_in_page() -> None:
    """What a network's portal answers in the service's place is told as such."""
    with pytest.raises(ProvisioningUnavailable, match="log-in page of the network"):
        read_status(b"<html>Welcome to the hotel</html>", where="gw-17")


def test_a_challenge() -> None:
    """An answer 401 has a key for the TPM, or is a plain no."""
    body = orjson.dumps({"authenticationKey": base64.b64encode(b"blob").decode(), "keyName": "registration"})
    assert read_challenge(body, where="x") == b"blob"
    assert read_challenge(b'{"errorCode": 401002}', where="x") is None
    assert read_challenge(b"Unauthorized", where="x") is None
    with pytest.raises(ProvisioningUnavailable, match="not base64"):
        read_challenge(b'{"authenticationKey": "%%"}', where="x")


def test_a_refusal() -> None:
    """The service's words are shown to a person: short, and without what moves a cursor."""
    body = {"errorCode": 401002, "message": "Un\x1b[2Jauthorized" + "!" * 500, "trackingId": "abc"}
    refusal = read_refusal(orjson.dumps(body))
    assert (refusal.error_code, refusal.tracking_id) == (401002, "abc")
    assert refusal.message.startswith("Un [2Jauthorized!")
    assert len(refusal.message) == 200
    assert read_refusal(b"Bad gateway") == Refusal()


@given(body=st.binary(max_size=200) | json_values.map(orjson.dumps))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    """Arbitrary bytes and arbitrary JSON end in an answer or in ProvisioningUnavailable."""
    read_refusal(body)
    for reader in (read_status, read_challenge):
        with suppress(ProvisioningUnavailable):
            reader(body, where="x")


@given(
    state=st.dictionaries(
        st.sampled_from(["assignedHub", "deviceId", "tpm", "errorCode", "errorMessage"]), json_values
    ),
    status=st.sampled_from(["assigned", "assigning", "failed", "disabled", "unassigned"]),
    operation_id=json_values,
)
def test_any_members_are_read_or_refused(state: Any, status: str, operation_id: Any) -> None:
    """With the right names and any values, too."""
    with suppress(ProvisioningUnavailable):
        read({"status": status, "operationId": operation_id, "registrationState": state})
