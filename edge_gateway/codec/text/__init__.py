"""Frames of text: NMEA 0183 sentences, comma-separated lines, VE.Direct blocks, smart meter telegrams.

A profile declares them beside binary frames, with the same words for the same meanings; see
`docs/reference/profile-text.md`. What happens with a declaration:

- `frames.py`, `columns.py`, `form.py` are the language, checked when a profile is made;
- `source.py` turns it into the Python function that reads every frame;
- `reading.py` reads one frame slowly, to explain it or to say why it is rejected;
- `writing.py` goes the other way, from values to text.

The last three are imported where they are needed: a gateway without such a profile does without them.
"""

from edge_gateway.codec.text.columns import NamedColumn
from edge_gateway.codec.text.frames import BlockFrame, ListFrame, TextFrame, can_be_told_apart
from edge_gateway.codec.text.layout import TextLayout

__all__ = [
    "BlockFrame",
    "ListFrame",
    "NamedColumn",
    "TextFrame",
    "TextLayout",
    "can_be_told_apart",
]
