"""What can be asked of the keys of a running gateway: to be destroyed.

| Request | Lines, besides `progress` |
| --- | --- |
| `keys.wipe` | `wiped` |

Whoever may open the control socket may read the keys' files as well, and needs to confirm nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict
from functools import partial
from typing import Final

from edge_gateway.api.control import Answer, Handler, progress
from edge_gateway.emergency import Emergency

WIPE_REASON: Final = "edge-gateway keys wipe"

_TELL_EVERY_S: Final = 1.0


def key_handlers(emergency: Emergency) -> dict[str, Handler]:
    """What can be asked of the keys of a gateway that runs.

    Args:
        emergency: the gateway's; its `run` is under way.
    """
    return {"keys.wipe": Handler(partial(wipe_keys, emergency))}


async def wipe_keys(emergency: Emergency) -> AsyncGenerator[Answer, None]:
    """Wipe, and say how it ended: a line `wiped`. It goes on when the asker leaves. The gateway then stops."""
    await emergency.begin(WIPE_REASON, source="keys-wipe")
    ended = asyncio.create_task(emergency.ended(), name="keys.wipe")
    try:
        while not ended.done():
            await asyncio.wait((ended,), timeout=_TELL_EVERY_S)
            yield progress(int(ended.done()), 1)
    finally:
        ended.cancel()
    yield {"wiped": asdict(ended.result())}
