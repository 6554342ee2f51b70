"""Edge Gateway: binary frames from constrained sensors to Azure IoT Hub, with nothing acknowledged ever lost.

Read `edge_gateway.pipeline` first: it is the hallway that joins the rooms in the order the data walks through them.
"""

__version__ = "0.1.0"
