"""MQTT 3.1.1 as a server of many services speaks it: packets, one client's connection, and the way over WebSocket."""
