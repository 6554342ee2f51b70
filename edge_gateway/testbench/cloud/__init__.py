"""Azure on one machine: IoT Hub, Device Provisioning Service and IoT Edge, as unmodified clients see them."""
