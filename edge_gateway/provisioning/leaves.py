"""Identities for many sensors at once.

Some sensors are worked on at a time, no more than the provisioning service likes. What is done is written down every
few sensors; a run that is cut short is repeated and goes on where it was, as a sensor that has its identity and its key
is passed over. Where the service refuses a sensor the others go on; where the service or the key store cannot be used
at all, the run ends.

A key is put into the store when the service has accepted it, and as a new generation where a sensor has another key, so
that a wrong one never takes a good one's place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from edge_gateway.errors import ConfigError
from edge_gateway.keystore import KeyStore, Secret
from edge_gateway.keystore.generations import Generations
from edge_gateway.provisioning.dps import BySymmetricKey, DpsClient
from edge_gateway.provisioning.errors import ProvisioningRefused
from edge_gateway.provisioning.identities import Identities, Identity, Method, leaf_key_name
from edge_gateway.provisioning.leaf_table import WantedLeaf, doubles
from edge_gateway.provisioning.symmetric_keys import Derive, holds, keep_generation_off_loop, signing_with

_log = structlog.get_logger()

AT_A_TIME: Final = 8
_WRITE_EVERY: Final = 50
"""Sensors; a power cut has no more of them done again."""
_REFUSALS_BORNE: Final = 8
"""In the beginning, without a single success: then something is wrong that all have in common."""
_KEYS_COMPARED: Final = 8
"""Of sensors that are passed over, to find out whether the group's key is theirs."""


@dataclass(slots=True)
class Outcome:
    """What became of the sensors."""

    provisioned: int = 0
    kept: int = 0
    """Those that had their identity and key before."""
    refused: dict[str, ProvisioningRefused] = field(default_factory=dict)
    """By the sensor's name."""
    is_group_proven: bool = False
    """A sensor has its key from the group's that was given, and the service has accepted it now or before."""


class LeafProvisioner:
    """Brings sensors their identities.

    Args:
        store: gets the keys.
        identities: gets the identities.
        client: the provisioning service; None if no sensor comes by it.
        derive: gives keys for those that bring none; None if there is no group's key.
        host_name: the hub of sensors that do not come by the provisioning service.
        gateway_host_name: the IoT Edge device that all go through; left out, each goes through that which it did.
        again: have also those from the service again that have their identities.
        on_progress: told how many are done, and of how many.
    """

    def __init__(
        self,
        store: KeyStore,
        identities: Identities,
        *,
        client: DpsClient | None = None,
        derive: Derive | None = None,
        host_name: str = "",
        gateway_host_name: str = "",
        again: bool = False,
        on_progress: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> None:
        self._store = store
        self._identities = identities
        self._client = client
        self._derive = derive
        self._host_name = host_name
        self._gateway_host_name = gateway_host_name
        self._again = again
        self._on_progress = on_progress
        self._keys = Generations(())
        """That are in the store before."""
        self._owners = {each.at_hub: each.device for each in identities}
        self._unwritten: list[Identity] = []
        self._to_compare = _KEYS_COMPARED
        self._outcome = Outcome()

    async def run(self, leaves: Sequence[WantedLeaf]) -> Outcome:
        """Provision sensors, once. Their keys are wiped when it ends.

        Raises:
            ConfigError: something is missing, or two devices would have the same identity; nothing was done.
            ProvisioningRefused: the service wants none of them.
            ProvisioningUnavailable: the service cannot be used now. What is done is kept.
            KeyStoreError: the key store cannot be used. What is done is kept.
        """
        try:
            self._check(leaves)
            self._keys = Generations(await asyncio.to_thread(self._store.names))
            try:
                await self._work_off(leaves)
            finally:
                self._write()
            return self._outcome
        finally:
            for leaf in leaves:
                if leaf.key is not None:
                    leaf.key.wipe()

    def _check(self, leaves: Sequence[WantedLeaf]) -> None:
        """Refuse, before anything is sent or written, what could not end well."""
        for first, again, what in doubles(leaves):
            raise ConfigError(
                f"{again.device} and {first.device} have the same {what}", where="sensors", remedy="Give each its own"
            )
        ids = {each.device_id.lower(): each for each in self._identities}
        for leaf in leaves:
            known = self._identities.leaves.get(leaf.device)
            has_it = known is not None and known.device_id == leaf.expected_id
            other = ids.get(leaf.expected_id.lower())
            if other is not None and other.device != leaf.device and not has_it:
                raise ConfigError(
                    f"{other.told} is {other.device_id} at {other.host_name} already",
                    where=leaf.device,
                    remedy="Give each device an id of its own, or remove one: edge-gateway provision remove NAME",
                )
            if leaf.registration_id:
                self._service(leaf)
                if leaf.key is None:
                    self._derivation(leaf)
            else:
                self._given_key(leaf)
                if not self._host_name:
                    raise ConfigError("nothing says at which hub it is", where=leaf.device, remedy="Give --host-name")
        self._identities.check(*(self._at_given_hub(leaf) for leaf in leaves if not leaf.registration_id))

    async def _work_off(self, leaves: Sequence[WantedLeaf]) -> None:
        waiting = iter(leaves)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(AT_A_TIME, len(leaves))):
                    group.create_task(self._work(waiting, len(leaves)), name=f"provision-leaves-{number}")
        except ExceptionGroup as group_error:
            # The first ended the others; a command tells one.
            raise group_error.exceptions[0] from group_error

    async def _work(self, waiting: Iterator[WantedLeaf], of: int) -> None:
        outcome = self._outcome
        for leaf in waiting:
            try:
                identity = await self._provision(leaf)
            except ProvisioningRefused as error:
                _log.warning("provisioning.leaf_refused", device=leaf.device, reason=error.what)
                outcome.refused[leaf.device] = error
                if len(outcome.refused) >= _REFUSALS_BORNE and not outcome.provisioned + outcome.kept:
                    raise ProvisioningRefused(
                        f"the first {_REFUSALS_BORNE} are all refused; of the last: {error.what}",
                        where=error.where,
                        remedy=error.remedy,
                    ) from error
            else:
                if identity is None:
                    outcome.kept += 1
                else:
                    outcome.provisioned += 1
                    self._unwritten.append(identity)
                    if len(self._unwritten) >= _WRITE_EVERY:
                        self._write()
            self._on_progress(outcome.provisioned + outcome.kept + len(outcome.refused), of)

    async def _provision(self, leaf: WantedLeaf) -> Identity | None:
        """A sensor's new identity, with its key in the store; None if it had both."""
        known = self._identities.leaves.get(leaf.device)
        if leaf.registration_id:
            if not self._again and known is not None and await self._is_whole(known, leaf):
                await self._compare_group(known, leaf)
                return None
            key = leaf.key
            if key is None:
                key = await asyncio.to_thread(self._derivation(leaf), leaf.registration_id)
            with key:
                assigned = await self._service(leaf).register(leaf.registration_id, BySymmetricKey(signing_with(key)))
                method: Method = "dps-group" if leaf.key is None else "dps-symmetric-key"
                identity = self._identity(leaf, assigned.host_name, assigned.device_id, method)
                self._claim(identity, leaf)
                await self._keep(identity.key, key, is_proven=True)
            self._outcome.is_group_proven |= leaf.key is None
            return identity
        identity = self._at_given_hub(leaf)
        if identity == known and await self._is_whole(known, leaf):
            return None
        await self._keep(identity.key, self._given_key(leaf))
        return identity

    async def _keep(self, name: str, key: Secret, *, is_proven: bool = False) -> None:
        is_first = self._keys.newest(name) is None
        await keep_generation_off_loop(self._store, name, key, is_proven=is_proven, is_first=is_first)

    async def _is_whole(self, known: Identity, leaf: WantedLeaf) -> bool:
        """Whether a sensor has the identity that is wanted, and its key is in the store."""
        # By a key of its own the service may have given it any id, which the table need not know.
        is_told = leaf.device_id or leaf.key is None
        newest = self._keys.newest(known.key)
        if (is_told and known.device_id != leaf.expected_id) or newest is None:
            return False
        if self._gateway_host_name and known.gateway_host_name != self._gateway_host_name:
            return False
        return leaf.key is None or await asyncio.to_thread(holds, self._store, newest, leaf.key)

    async def _compare_group(self, known: Identity, leaf: WantedLeaf) -> None:
        """Find out by a sensor that has its key whether that comes from the group's."""
        newest = self._keys.newest(known.key)
        if leaf.key is not None or newest is None or self._outcome.is_group_proven or not self._to_compare:
            return
        self._to_compare -= 1
        with await asyncio.to_thread(self._derivation(leaf), leaf.registration_id) as key:
            self._outcome.is_group_proven |= await asyncio.to_thread(holds, self._store, newest, key)

    def _claim(self, identity: Identity, leaf: WantedLeaf) -> None:
        """See that the service has given a sensor what was expected, and what no other device has."""
        owner = self._owners.setdefault(identity.at_hub, identity.device)
        if owner != identity.device or (leaf.device_id and leaf.device_id != identity.device_id):
            taken = f", which is {owner or 'the gateway'} here" if owner != identity.device else ""
            raise ProvisioningRefused(
                f"the service says that it is {identity.device_id} at {identity.host_name}{taken}",
                where=leaf.device,
                remedy="Correct device_id in the table, or the device id of the enrolment",
            )

    def _identity(self, leaf: WantedLeaf, host_name: str, device_id: str, method: Method) -> Identity:
        key = leaf_key_name(leaf.device)
        known = self._identities.leaves.get(leaf.device)
        parent = self._gateway_host_name or (known.gateway_host_name if known is not None else "")
        return Identity(leaf.device, host_name, device_id, key, method, parent)

    def _at_given_hub(self, leaf: WantedLeaf) -> Identity:
        return self._identity(leaf, self._host_name, leaf.device_id, "csv")

    def _service(self, leaf: WantedLeaf) -> DpsClient:
        if self._client is None:
            raise ConfigError("comes by the provisioning service", where=leaf.device, remedy="Give --id-scope")
        return self._client

    def _derivation(self, leaf: WantedLeaf) -> Derive:
        if self._derive is None:
            raise ConfigError(
                "has no key, and there is no group's key to derive it from",
                where=leaf.device,
                remedy="Give the group's key with --from-file, or keys in the table",
            )
        return self._derive

    def _given_key(self, leaf: WantedLeaf) -> Secret:
        if leaf.key is None:
            raise ConfigError("has no key", where=leaf.device, remedy="Give one in the table")
        return leaf.key

    def _write(self) -> None:
        """Write down what is done. Blocks for a sync, while nothing else is urgent."""
        if self._unwritten:
            self._identities.put(*self._unwritten)
            self._unwritten.clear()
