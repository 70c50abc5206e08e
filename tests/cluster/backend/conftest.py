"""The suite of tests/conformance/backend, over executors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Backend
from tests.cluster.deployed import Deployed
from tests.conformance.backend.conftest import Started
from tests.conformance.backend.kinds import EXECUTORS, KUBERNETES, BackendKind


@pytest.fixture
def backend_kind(there: Deployed, monkeypatch: pytest.MonkeyPatch) -> BackendKind:
    """Executors; each folder has an instance of its own."""
    monkeypatch.setenv(EXECUTORS, json.dumps(dict(there.traits)))
    return KUBERNETES._replace(
        running=lambda: {pod["metadata"]["uid"] for pod in there.pods()},
        # Connections to the API server come and go.
        descriptors=lambda: 0,
    )


@pytest.fixture
def any_kind(backend_kind: BackendKind) -> BackendKind:
    return backend_kind


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
