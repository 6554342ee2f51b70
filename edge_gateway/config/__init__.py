"""Declarations of what can be set, beside the flow; handed to the rooms as arguments.

`link` declares ports and framings, which device profiles and the gateway's configuration share. `model` declares the
whole `gateway.yaml`, and `load` reads it. All models are frozen, refuse unknown keys and carry units in their names.
"""
