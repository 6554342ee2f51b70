"""CEL, the Common Expression Language, as fast as Python written by hand.

```
text --parse--> Expression --check--> Checked --python_source--> Python of one expression
```

Computed fields, conditions of profiles and rules are CEL. An expression is read and checked once, when it is loaded,
and whatever can be wrong with it is said then. What runs for every reading is Python source, made for this expression
and these types, to stand in generated code or in a function of its own (`compile_expression`).

Promises:

- The meaning is the CEL specification's; docs/reference/expressions.md says where it leaves a choice or we do less.
- An evaluation gives a value or raises EvaluationError, with what and where. It has no side effects and it ends.
- Any text whatever is parsed or refused with ExpressionError: text, nesting and the size of patterns are bounded.

To read on: `syntax` (the tree), `types`, `checker`, `python` (the tree to source), `standard` (the functions).
"""

from __future__ import annotations

from edge_gateway.cel.checker import Checked, check
from edge_gateway.cel.compile import compile_expression, compile_positional
from edge_gateway.cel.errors import EvaluationError, ExpressionError
from edge_gateway.cel.functions import Function, Functions
from edge_gateway.cel.parser import parse
from edge_gateway.cel.python import python_source
from edge_gateway.cel.standard import STANDARD
from edge_gateway.cel.syntax import Expression
from edge_gateway.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    NULL,
    STRING,
    TIMESTAMP,
    UINT,
    Type,
    list_of,
    map_of,
    nullable,
)
from edge_gateway.cel.values import CelValue, Duration, Timestamp, Uint

__all__ = [
    "BOOL",
    "BYTES",
    "DOUBLE",
    "DURATION",
    "DYN",
    "INT",
    "NULL",
    "STANDARD",
    "STRING",
    "TIMESTAMP",
    "UINT",
    "CelValue",
    "Checked",
    "Duration",
    "EvaluationError",
    "Expression",
    "ExpressionError",
    "Function",
    "Functions",
    "Timestamp",
    "Type",
    "Uint",
    "check",
    "compile_expression",
    "compile_positional",
    "list_of",
    "map_of",
    "nullable",
    "parse",
    "python_source",
]
