"""Cuts the power between any two operations of the disk, under the real buffer, and judges all that may be left.

```
workload --> DurableBuffer, Store --> SQLite --> MemoryDisk --log--> Platter --images--> Store --> verdict
    |              |                                                                                  ^
    +-- witness ---+------------------- what was promised when, and the states it allows --------------+
```

- `memory_disk`: SQLite's disk, which notes each creation, write, truncation, deletion and sync.
- `workload`: a seeded life of the buffer on it; `witness`: what was promised, by a plain model beside the store.
- `disk_model`: which images a cut may leave. Its assumptions stand there, with sources.
- `verdict`: opens an image with the product's own code and holds it against the promise.
- `machine`: goes through all cuts of many lives; finds any image again.

`python -m edge_gateway.testbench.power_cut` runs it. The promise is the one of `edge_gateway.buffer`.
"""

from edge_gateway.testbench.power_cut.machine import Finding, Outcome, Place, Replayed, cut_everywhere, replay
from edge_gateway.testbench.power_cut.state import Problem
from edge_gateway.testbench.power_cut.witnessed_store import WitnessedStore
from edge_gateway.testbench.power_cut.workload import Conditions

__all__ = [
    "Conditions",
    "Finding",
    "Outcome",
    "Place",
    "Problem",
    "Replayed",
    "WitnessedStore",
    "cut_everywhere",
    "replay",
]
