"""The profile to start from when a new device shall be described: complete, commented, and already working.

It is text and not a dumped model, because its comments are the point.
"""

from __future__ import annotations

import re

from edge_gateway.errors import ProfileError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
"""As the language has it for a profile's name."""

_TEXT = """\
# {name}: a profile to start from. Hold it line by line against the device's manual.
# All keys: docs/reference/profile.md. Run its vectors with: edge-gateway profiles test {name}.yaml
name: {name}
version: 1 # grows with every change of meaning
title: Maker and model of the device
source: {{document: "Title of the manual, its version", pages: "4-6"}}

# How characters travel; leave `line` out for a device without a serial line.
line: {{baud: 9600, parity: none}}

# Where frames begin and end: cobs, slip, delimiter, block, hex-text, length-prefixed, fixed or idle-gap.
framing: {{kind: fixed, frame_bytes: 9, sync: "aa"}}

# With several devices on one link, name the field that tells which of them speaks:
# identity: address
# If the device counts its frames, name the field, and the gateway counts what is missing:
# sequence: counter

frames:
  measurement:
    role: sample # sample: measured values; answer: what it says to a command; request: sent to it
    endian: big
    fields: # in the order of the wire, without gaps
      - {{name: start, type: u8, const: 0xaa}} # the same in every frame; no value
      - {{name: temperature, type: i16, scale: 0.1, unit: Cel, sentinel: 0x7fff}} # this raw number means null
      - {{name: humidity, type: u16, scale: 0.1, unit: "%RH", sentinel: 0xffff}}
      - name: status
        type: u8
        bits:
          - {{name: low_battery, bit: 0}} # one bit is true or false
          - {{name: mode, bit: 1, width: 2, enum: {{0: idle, 1: measure, 2: fault}}}}
      - {{name: reserved, type: u8, emit: false}} # bytes that mean nothing
    checksum: {{algorithm: crc-16/modbus, endian: little}}

# At least one frame from the manual or from a capture, and what it means. They run as tests.
vectors:
  - frame: measurement
    hex: aa 00 eb 01 c4 03 00 75 ec
    values: {{temperature: 23.5, humidity: 45.2, low_battery: true, mode: measure}}
    source: Computed from the layout
  - frame: measurement
    hex: aa 7f ff ff ff 00 00 0e f5
    values: {{temperature: null, humidity: null, low_battery: false, mode: idle}}
    source: Computed from the layout; no values
"""


_RADIO_TEXT = """\
# {name}: a profile to start from, for a Bluetooth sensor that advertises what it measures.
# All keys: docs/reference/profile.md. Run its vectors with: edge-gateway profiles test {name}.yaml
name: {name}
version: 1 # grows with every change of meaning
title: Maker and model of the device
source: {{document: "Title of the document, its version", pages: "4-6"}}

# What to listen for: manufacturer data of a company, or service data; the number as it is printed, in quotes.
radio: {{manufacturer_data: "ffff"}}
# radio: {{service_data: "fcd2"}}
identity: address

frames:
  measurement:
    role: sample
    endian: little
    fields: # what was heard: the sender's address, the company's number as on air, and its data
      - {{name: address, type: mac, endian: big}}
      - {{name: company, type: u16, endian: little, const: 0xffff}} # the same number again
      - name: flags
        type: u8
        bits:
          - {{name: has_humidity, bit: 0, emit: false}}
          - {{name: low_battery, bit: 7}} # one bit is true or false
      - {{name: temperature, type: i16, scale: 0.01, unit: Cel, sentinel: -32768}} # this raw number means null
      - {{name: humidity, type: u8, unit: "%RH", if: has_humidity}} # only there if the flag says so

# At least one frame from a document or from a capture, and what it means. They run as tests.
vectors:
  - frame: measurement
    hex: a1 b2 c3 d4 e5 f6 ff ff 01 2e 09 2d
    address: "a1:b2:c3:d4:e5:f6"
    values: {{low_battery: false, temperature: 23.5, humidity: 45}}
    source: Computed from the layout
  - frame: measurement
    hex: a1 b2 c3 d4 e5 f6 ff ff 80 00 80
    address: "a1:b2:c3:d4:e5:f6"
    values: {{low_battery: true, temperature: null}}
    source: Computed from the layout; no values
"""


def starting_profile(name: str, *, radio: bool = False) -> str:
    """A commented profile of that name, in YAML; it loads, and its vectors hold.

    Args:
        name: the profile's.
        radio: for a sensor that advertises, instead of one on a serial line.

    Raises:
        ProfileError: no profile may have this name.
    """
    if not _NAME.fullmatch(name):
        raise ProfileError(
            f"{name!r} cannot name a profile", remedy="Lower case letters, digits and -, for instance soil-probe"
        )
    return (_RADIO_TEXT if radio else _TEXT).format(name=name)
