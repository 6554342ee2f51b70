"""What follows from a profile without further words: schemas, a datasheet, frames to try, and signals to play.

Pure functions of a `Profile`; the gateway itself needs none of them while it runs. All of them ask `shapes.py` what a
field can become and `outline.py` what is in a frame, and frames are made in `drawing.py`, so that a new kind of field
or item is taught in one place.

```python
profile = load_profile("reference-climate")
values_schema(profile)                      # JSON Schema of a reading's values
dtdl_interface(profile)                     # for Azure's tools
profile_markdown(profile)                   # for people, to hold against the datasheet
corpus(profile, seed=1, count=10_000)       # frames, sound and broken; their keys are corpus_keys(profile)
ProfileSignal(profile, random.Random(1))    # what a simulated sensor measures
```
"""

from edge_gateway.codec.generated.corpus import corpus, corpus_keys
from edge_gateway.codec.generated.dtdl import dtdl_interface
from edge_gateway.codec.generated.markdown import profile_markdown
from edge_gateway.codec.generated.profile_signal import ProfileSignal
from edge_gateway.codec.generated.starting_profile import starting_profile
from edge_gateway.codec.generated.values_schema import values_schema
from edge_gateway.codec.generated.vector_report import VectorFailure, vector_failures

__all__ = [
    "ProfileSignal",
    "VectorFailure",
    "corpus",
    "corpus_keys",
    "dtdl_interface",
    "profile_markdown",
    "starting_profile",
    "values_schema",
    "vector_failures",
]
