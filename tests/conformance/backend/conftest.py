"""Every test of the suite runs over every backend, with a folder and a backend of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Backend
from tests.conformance.backend.kinds import KINDS, BackendKind

Started = Callable[..., AbstractAsyncContextManager[Backend]]


@pytest.fixture(params=[each for each in KINDS if each.isolates], ids=lambda each: each.name)
def backend_kind(request: pytest.FixtureRequest) -> BackendKind:
    """A backend that isolates."""
    chosen: BackendKind = request.param
    return chosen


@pytest.fixture(params=KINDS, ids=lambda each: each.name)
def any_kind(request: pytest.FixtureRequest) -> BackendKind:
    """Any backend, so that both meanings of `survives_gateway` are there."""
    chosen: BackendKind = request.param
    return chosen


@pytest.fixture
def started(backend_kind: BackendKind, tmp_path: Path) -> Started:
    """Makes started backends, and closes them."""

    @asynccontextmanager
    async def start(**traits: Any) -> AsyncIterator[Backend]:
        backend = backend_kind.make(tmp_path, **traits)
        await backend.start()
        try:
            yield backend
        finally:
            await backend.close()

    return start
