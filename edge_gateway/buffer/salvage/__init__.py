"""Finds what is still whole in a damaged SQLite database: from the bytes, without SQLite, never raising.

Flash rots. SQLite refuses a query as soon as it meets a damaged page, and of a log it silently drops all that stands
behind the first damaged frame. But the rows on every other page are as good as before:

```
log -------> log.py: newest whole frame of each page --+
                                                       +--> pages.py --> trees.py: the trees, then orphans --> Row
database --> its pages, where the log has no newer ----+                     cells.py: a page's cells, their records
```

- `FileContent`: a file's bytes, also of one with sectors that cannot be read any more.
- `rows`: every row of some tables that is whole, and how sure it is that the row was there last.
- `lost_frames`: whether SQLite has dropped transactions of a log without a word.

What it relies on is the file format, https://www.sqlite.org/fileformat2.html, whose sections are cited; databases in
UTF-8 without auto-vacuum and without reserved bytes in the pages. Pages of the database carry no checksum, so "whole"
says that structure and types are right; whoever has to know that the values are, seals them.
"""

from edge_gateway.buffer.salvage.cells import Value
from edge_gateway.buffer.salvage.content import Content, FileContent
from edge_gateway.buffer.salvage.log import lost_frames
from edge_gateway.buffer.salvage.trees import Found, Row, Table, rows

__all__ = ["Content", "FileContent", "Found", "Row", "Table", "Value", "lost_frames", "rows"]
