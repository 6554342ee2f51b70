"""Who may do what at a hub: devices and modules by token or certificate, services by tokens of the hub's policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.testbench.cloud.identity import (
    CertificateAuthority,
    Identity,
    IdentityName,
    IdentityRegistry,
    NoAuthentication,
    SymmetricKeys,
    Thumbprints,
)
from edge_gateway.testbench.cloud.refusals import AccessDenied, IdentityNotFound
from edge_gateway.testbench.cloud.tls import chains_to
from edge_gateway.testbench.cloud.tokens import Policy, Right, check, parse


class AccessControl:
    """Decides by the hub's registry and policies as they are at the moment.

    Args:
        host_name: the hub's, which tokens are for.
        registry: its identities.
        policies: by their names.
        trusted_cas: whose device certificates are accepted.
        clock: wall time, by which tokens and certificates end.
    """

    def __init__(
        self,
        host_name: str,
        registry: IdentityRegistry,
        policies: Mapping[str, Policy],
        trusted_cas: Sequence[x509.Certificate],
        clock: Clock,
    ) -> None:
        self._host_name = host_name
        self._registry = registry
        self._policies = policies
        self._trusted_cas = trusted_cas
        self._clock = clock

    def admit_device(
        self, name: IdentityName, *, token: str | None, chain: Sequence[x509.Certificate]
    ) -> tuple[Identity, int | None]:
        """See `LocalHub.admit_device`."""
        try:
            identity = self._registry.get(name)
            enabled = identity.enabled and self._registry.get(IdentityName(name.device_id)).enabled
        except IdentityNotFound:
            raise AccessDenied("no such device", where=str(name)) from None
        if not enabled:
            raise AccessDenied("the device is disabled", where=str(name))
        if token is not None:
            return identity, self._check_token(identity, token)
        self._check_certificate(identity, chain)
        return identity, None

    def admit_service(self, token: str, right: Right, path: str) -> None:
        """See `LocalHub.admit_service`."""
        parsed = parse(token, "service")
        resource = f"{self._host_name}{path}"
        check(parsed, keys=self._policy_keys(parsed.policy, right), resource=resource, now_s=self._now_s())

    def _policy_keys(self, name: str, right: Right) -> tuple[str, str]:
        policy = self._policies.get(name)
        if policy is None or right not in policy.rights:
            raise AccessDenied("the token's policy does not allow this", where=name or "no policy")
        return policy.primary_key, policy.secondary_key

    def _check_token(self, identity: Identity, token: str) -> int:
        """Check a device's own token, or one of a policy that may act as any device."""
        parsed = parse(token, str(identity.name))
        if parsed.policy in self._policies:
            keys = self._policy_keys(parsed.policy, Right.DEVICE_CONNECT)
        elif isinstance(identity.authentication, SymmetricKeys):
            keys = (identity.primary_key, identity.secondary_key)
        else:
            raise AccessDenied("a token from a device that proves itself otherwise", where=str(identity.name))
        return check(parsed, keys=keys, resource=f"{self._host_name}/{identity.name.path}", now_s=self._now_s())

    def _check_certificate(self, identity: Identity, chain: Sequence[x509.Certificate]) -> None:
        where = str(identity.name)
        if not chain:
            raise AccessDenied("no password and no client certificate", where=where)
        match identity.authentication:
            case Thumbprints(primary, secondary):
                # SHA-1 because thumbprints are registered by it, too; TLS has checked the signatures.
                shown = {chain[0].fingerprint(each).hex().upper() for each in (hashes.SHA1(), hashes.SHA256())}  # noqa: S303
                if shown.isdisjoint(filter(None, (primary.upper(), secondary.upper()))):
                    raise AccessDenied("the client certificate is another one", where=where)
            case CertificateAuthority():
                names = chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
                if [name.value for name in names] != [identity.device_id]:
                    raise AccessDenied("the client certificate is for another name", where=where)
                if not chains_to(chain, self._trusted_cas, datetime.fromtimestamp(self._now_s(), UTC)):
                    raise AccessDenied("no trusted CA vouches for the client certificate", where=where)
            case SymmetricKeys() | NoAuthentication():
                raise AccessDenied("a client certificate from a device that has none", where=where)

    def _now_s(self) -> float:
        return self._clock.now_ns() / NS_PER_S
