"""The decoders in Python that ship with the gateway; each stands behind the door of `codec/door.py` like any other."""
