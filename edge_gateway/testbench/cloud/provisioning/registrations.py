"""Registrations: which device is at which hub, how it came there, and what becomes of it when it registers again.

A device keeps its registration as long as its enrolment is there. When it registers again, its hub may be chosen anew:
it then moves, with its twin or without, as its enrolment's policies say. A registration that fails moves nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from edge_gateway.clock import Clock, rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.records import Value
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.identity import Authentication, IdentityName, etag
from edge_gateway.testbench.cloud.provisioning.enrolments import (
    Allocation,
    AllocationFailed,
    AllocationRequest,
    Enrolment,
    EnrolmentGroup,
    IndividualEnrolment,
    allocated,
)
from edge_gateway.testbench.cloud.refusals import EtagMismatch, IdentityNotFound
from edge_gateway.testbench.cloud.twin import Section, Twin

_log = structlog.get_logger()

_HUB_NOT_FOUND = 401001
_CUSTOM_ALLOCATION_FAILED = 400209


class RegistrationNotFound(BenchError):
    """No device has registered under this id, or by this operation."""


class Outcome(enum.Enum):
    """How a registration ended."""

    ASSIGNED = "assigned"
    FAILED = "failed"


class Substatus(enum.Enum):
    """How a device came to its hub."""

    INITIAL_ASSIGNMENT = "initialAssignment"
    DATA_MIGRATED = "deviceDataMigrated"
    """To another hub, with its twin."""
    DATA_RESET = "deviceDataReset"
    """With a new twin, to another hub or at the same."""
    REPROVISIONED = "reprovisionedToInitialAssignment"
    """To a hub where it has been before. UNVERIFIED: the specification says no more than that."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What came of a device's last registration."""

    registration_id: str
    outcome: Outcome
    etag: str
    created_ns: int
    """Unix nanoseconds of the first registration under this id."""
    updated_ns: int
    hub: str = ""
    """Host name; empty if it never had one. A failed registration leaves the device where it was."""
    device_id: str = ""
    substatus: Substatus = Substatus.INITIAL_ASSIGNMENT
    payload: Value = None
    """What a custom allocation policy tells the device."""
    error_code: int = 0
    error_message: str = ""
    group_id: str = ""
    """Of the enrolment group; empty for an individual enrolment."""
    past_hubs: frozenset[str] = frozenset()

    def document(self) -> Section:
        """As devices and services read it (DeviceRegistrationState)."""
        document: Section = {
            "registrationId": self.registration_id,
            "createdDateTimeUtc": timestamp(self.created_ns),
            "lastUpdatedDateTimeUtc": timestamp(self.updated_ns),
            "status": self.outcome.value,
            "etag": self.etag,
        }
        if self.outcome is Outcome.FAILED:
            return document | {"errorCode": self.error_code, "errorMessage": self.error_message}
        document |= {"assignedHub": self.hub, "deviceId": self.device_id, "substatus": self.substatus.value}
        return document if self.payload is None else document | {"payload": self.payload}


class Registrations:
    """The registrations of a service, one for each device; brings devices to their hubs.

    Args:
        hubs: the linked hubs.
        clock: stamps registrations.
        on_change: called after each change.
    """

    def __init__(self, hubs: Sequence[LocalHub], clock: Clock, on_change: Callable[[], None]) -> None:
        self._hubs = {hub.host_name: hub for hub in hubs}
        self._clock = clock
        self._on_change = on_change
        self._registrations: dict[str, Registration] = {}
        self.etags = 0
        """How many etags were given; never less, or an old one could come again."""

    def __iter__(self) -> Iterator[Registration]:
        """In the order of the first registration of each device."""
        return iter(list(self._registrations.values()))

    def __len__(self) -> int:
        return len(self._registrations)

    def get(self, registration_id: str) -> Registration:
        """Look a device's registration up.

        Raises:
            RegistrationNotFound: the device has not registered.
        """
        registration = self._registrations.get(registration_id.lower())
        if registration is None:
            raise RegistrationNotFound("no such registration", where=registration_id, remedy="Register the device")
        return registration

    def remove(self, registration_id: str, etag: str | None = None) -> None:
        """Forget that a device has registered. It stays at its hub; when it registers again, that is its first time.

        Args:
            registration_id: whose.
            etag: of the registration the caller knows; None takes any.

        Raises:
            RegistrationNotFound: the device has not registered.
            EtagMismatch: it has registered again since.
        """
        if self.get(registration_id).etag != etag and etag is not None:
            raise EtagMismatch("it has changed in the meantime", where=registration_id, remedy="Read it again")
        del self._registrations[registration_id.lower()]
        self._on_change()

    def forget(self, condition: Callable[[Registration], bool]) -> None:
        """Forget all for which a condition holds."""
        for registration in self:
            if condition(registration):
                self.remove(registration.registration_id)

    def restore(self, registrations: Iterable[Registration], etags: int) -> None:
        """Hold these and no others, as they were held once, after so many etags. Nobody is told.

        Raises:
            BenchError: a device is at a hub that is not linked; nothing was changed.
        """
        restored = {each.registration_id.lower(): each for each in registrations}
        for registration in restored.values():
            if registration.hub and registration.hub not in self._hubs:
                raise BenchError(
                    f"{registration.registration_id} is at a hub that is not linked",
                    where=registration.hub,
                    remedy="Link the hub, or start in another directory",
                )
        self._registrations = restored
        self.etags = etags

    def assign(
        self,
        enrolment: IndividualEnrolment | EnrolmentGroup,
        registration_id: str,
        payload: Value,
        authentication: Authentication,
    ) -> Registration:
        """Choose a hub for a device, bring it there, and note what came of it.

        Args:
            enrolment: says how.
            registration_id: the device.
            payload: what the device sent along.
            authentication: how it will prove itself at the hub.
        """
        now_ns = self._clock.now_ns()
        self.etags += 1
        known = self._registrations.get(registration_id.lower())
        registration = replace(
            known if known is not None else Registration(registration_id, Outcome.ASSIGNED, "", now_ns, now_ns),
            outcome=Outcome.ASSIGNED,
            etag=etag(self.etags),
            updated_ns=now_ns,
            payload=None,
            group_id=enrolment.group_id if isinstance(enrolment, EnrolmentGroup) else "",
        )
        log = _log.bind(registration_id=registration_id)
        try:
            allocation = self._allocation(enrolment, registration, payload)
        except AllocationFailed as error:
            log.info("testbench.dps.failed", reason=error.what)
            custom = callable(enrolment.allocation)
            registration = replace(
                registration,
                outcome=Outcome.FAILED,
                error_code=_CUSTOM_ALLOCATION_FAILED if custom else _HUB_NOT_FOUND,
                error_message=f"Custom allocation failed: {error.what}" if custom else error.what,
            )
        else:
            registration = self._settled(enrolment, registration, allocation, authentication)
            log.info(
                "testbench.dps.assigned",
                hub=registration.hub,
                device_id=registration.device_id,
                substatus=registration.substatus.value,
            )
        self._registrations[registration_id.lower()] = registration
        self._on_change()
        return registration

    def _allocation(self, enrolment: Enrolment, registration: Registration, payload: Value) -> Allocation:
        """Choose a hub.

        Raises:
            AllocationFailed: there is none.
        """
        if registration.hub and not enrolment.reprovision.update_hub_assignment:
            return Allocation(registration.hub)
        hubs = enrolment.hubs or tuple(self._hubs)
        request = AllocationRequest(registration.registration_id, payload, hubs, registration.hub)
        allocation = allocated(enrolment.allocation, request)
        if allocation.hub not in self._hubs:
            raise AllocationFailed("IoT Hub not found", where=allocation.hub, remedy="Link the hub to the service")
        return allocation

    def _settled(
        self,
        enrolment: IndividualEnrolment | EnrolmentGroup,
        registration: Registration,
        allocation: Allocation,
        authentication: Authentication,
    ) -> Registration:
        """Create, move or update a device at its hub."""
        device_id = registration.registration_id
        if isinstance(enrolment, IndividualEnrolment) and enrolment.device_id:
            device_id = enrolment.device_id
        hub = self._hubs[allocation.hub]
        first = not registration.hub
        moves = not first and (registration.hub, registration.device_id) != (hub.host_name, device_id)
        policy = enrolment.reprovision
        starts_anew = allocation.initial_twin is not None or (
            policy.update_hub_assignment and not policy.migrate_device_data
        )
        taken_along: Twin | None = None
        if moves:
            old_hub = self._hubs[registration.hub]
            with suppress(IdentityNotFound):  # somebody else has removed the device
                taken_along = old_hub.twin(registration.device_id)
                old_hub.remove_device(registration.device_id)
        created = _placed(hub, device_id, authentication, edge=enrolment.edge)
        if taken_along is not None and not starts_anew:
            _furnish(hub, device_id, taken_along.tags, taken_along.desired)
            hub.twin(device_id).patch_reported(taken_along.reported)
        elif first or created or starts_anew:
            twin = allocation.initial_twin or enrolment.initial_twin
            _furnish(hub, device_id, twin.tags, twin.desired)
        substatus = registration.substatus
        if moves and hub.host_name in registration.past_hubs:
            substatus = Substatus.REPROVISIONED
        elif starts_anew and not first:
            substatus = Substatus.DATA_RESET
        elif moves:
            substatus = Substatus.DATA_MIGRATED
        return replace(
            registration,
            hub=hub.host_name,
            device_id=device_id,
            substatus=substatus,
            payload=allocation.payload,
            past_hubs=registration.past_hubs | {hub.host_name},
        )


def _placed(hub: LocalHub, device_id: str, authentication: Authentication, *, edge: bool) -> bool:
    """Have a device at a hub; tell whether it is new there."""
    try:
        known = hub.registry.get(IdentityName(device_id))
    except IdentityNotFound:
        hub.add_device(device_id, authentication=authentication, edge=edge)
        return True
    if known.authentication != authentication:
        hub.registry.update(replace(known, authentication=authentication))
    return False


def _furnish(hub: LocalHub, device_id: str, tags: Mapping[str, Value], desired: Mapping[str, Value]) -> None:
    """Give a device these tags and desired properties and no others."""
    twin = hub.twin(device_id)
    if twin.tags != tags:
        twin.replace_tags(tags)
    if twin.desired != desired:
        hub.replace_desired(device_id, desired)


def timestamp(time_ns: int) -> str:
    """A wall time as the service writes it: UTC, seven decimals."""
    return f"{rfc3339(time_ns)[:-1]}{time_ns // 100 % 10}Z"
