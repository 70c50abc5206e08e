"""Real sandboxes, each test with a gateway's worth of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.bubblewrap import BubblewrapBackend
from tests.conformance.backend.kinds import LOG

Started = Callable[..., AbstractAsyncContextManager[BubblewrapBackend]]


@pytest.fixture
def started(tmp_path: Path) -> Started:
    """Makes started backends, and closes them."""

    @contextlib.asynccontextmanager
    async def start(**traits: Any) -> AsyncIterator[BubblewrapBackend]:
        backend = BubblewrapBackend(runtime_dir=str(tmp_path / "run"), log=LOG, **traits)
        await backend.start()
        try:
            yield backend
        finally:
            await backend.close()

    return start
