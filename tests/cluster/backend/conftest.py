"""The suite of tests/conformance/backend, over executors."""

from __future__ import annotations

import json

import pytest

from tests.cluster.deployed import Deployed
from tests.conformance.backend.conftest import started
from tests.conformance.backend.kinds import EXECUTORS, KUBERNETES, BackendKind

__all__ = ["started"]


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
