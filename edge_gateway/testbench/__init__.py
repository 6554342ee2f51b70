"""The bench: a gateway's surroundings on one machine, with real protocols and faults that can be switched.

What a person or a test needs to run the whole gateway without cloud or hardware: an IoT Hub and a provisioning
service, their certificates, a TPM, a network that fails on command, and the receiver's account of what arrived. It
ships with the product because whoever describes a new sensor or tests a deployment needs it as much as we do. Nothing
here is for production.
"""

from edge_gateway.testbench.certificates import LocalAuthority, ServerCertificate
from edge_gateway.testbench.cloud.cloud_messages import CloudMessage, DeliveryState
from edge_gateway.testbench.cloud.front_door import FrontDoor
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.hub_messages import HubStatistics
from edge_gateway.testbench.cloud.hub_session import MethodResponse
from edge_gateway.testbench.cloud.identity import Identity, IdentityName
from edge_gateway.testbench.cloud.local_cloud import LocalCloud
from edge_gateway.testbench.cloud.provisioning.dps import LocalDps
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, IndividualEnrolment
from edge_gateway.testbench.cloud.refusals import DeviceNotOnline, MethodTimedOut
from edge_gateway.testbench.cloud.tokens import sas_token
from edge_gateway.testbench.cloud.twin import Twin, TwinRefused
from edge_gateway.testbench.fault_proxy import FaultProxy, ProxyMode
from edge_gateway.testbench.listener import free_loopback_address
from edge_gateway.testbench.receiver import DeliveryAccount, ReceivedMessage
from edge_gateway.testbench.virtual_tpm import VirtualTpm

__all__ = [
    "CloudMessage",
    "DeliveryAccount",
    "DeliveryState",
    "DeviceNotOnline",
    "EnrolmentGroup",
    "FaultProxy",
    "FrontDoor",
    "HubStatistics",
    "Identity",
    "IdentityName",
    "IndividualEnrolment",
    "LocalAuthority",
    "LocalCloud",
    "LocalDps",
    "LocalHub",
    "MethodResponse",
    "MethodTimedOut",
    "ProxyMode",
    "ReceivedMessage",
    "ServerCertificate",
    "Twin",
    "TwinRefused",
    "VirtualTpm",
    "free_loopback_address",
    "sas_token",
]
