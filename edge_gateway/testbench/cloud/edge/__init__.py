"""An IoT Edge device: its agent, its hub with routes and store, and the workload API that modules call."""
