"""The demonstration: sensors, gateway and hub on one machine, with faults on request and an account that must balance.

```
virtual sensors --pseudo-terminals--> edge-gateway run (a process of its own) --TLS--> fault proxy --> LocalHub
       |                                        |                                                       |
       +----- what was sent (FrameLedger) ------+--- what was kept and delivered (its store) ---+ what arrived
                                                         compared in `outcome`
```

Unlike the rooms of the gateway it knows all of them, because it stands outside and looks at the whole.
"""
