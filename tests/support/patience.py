"""How long tests wait for what has to come: long, since a machine may have all processors busy meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Seconds. What does come is not waited for any longer.
PATIENCE = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds; fails after `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)
