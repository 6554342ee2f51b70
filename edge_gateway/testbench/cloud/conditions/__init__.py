"""The condition language that IoT Edge routes and IoT Hub queries share."""
