"""The suite of tests/conformance/backend, over executors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.backends.base import Backend
from tests.cluster.deployed import Deployed, deployed
from tests.cluster.installation import Installation
from tests.conformance.backend.conftest import Started
from tests.conformance.backend.kinds import EXECUTORS, KUBERNETES, BackendKind


@pytest.fixture(scope="session")
def installed_gateway(
    installation: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    """What a gateway needs is there."""
    with deployed(installation, tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def backend_kind(installed_gateway: Deployed, monkeypatch: pytest.MonkeyPatch) -> BackendKind:
    """Executors; each folder has an instance of its own."""
    monkeypatch.setenv(EXECUTORS, json.dumps(dict(installed_gateway.traits)))
    return KUBERNETES._replace(
        running=lambda: {pod["metadata"]["uid"] for pod in installed_gateway.pods()},
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
