"""Every test of the suite runs over every implementation."""

from __future__ import annotations

import pytest

from tests.conformance.transport.ends import IMPLEMENTATIONS, Ends


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda ends: ends.name)
def ends(request: pytest.FixtureRequest) -> Ends:
    chosen: Ends = request.param
    return chosen
