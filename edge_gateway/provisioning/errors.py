"""What can go wrong between the gateway and the provisioning service."""

from __future__ import annotations

from edge_gateway.errors import GatewayError


class ProvisioningError(GatewayError):
    """An identity could not be had."""


class ProvisioningUnavailable(ProvisioningError):
    """The service cannot be reached, or does not answer as it should. Trying again later may work."""


class ProvisioningRefused(ProvisioningError):
    """The service, or the check of its certificate, said no. Trying again works only after somebody acted."""
