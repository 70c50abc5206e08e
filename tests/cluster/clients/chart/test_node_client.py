"""@jupyterlab/services at the chart's Service: the test of tests/e2e, unchanged."""

from __future__ import annotations

import pytest

from tests.e2e.test_node import test_jupyterlab_services_runs_a_session_from_start_to_end

pytestmark = pytest.mark.requires("cluster", "own-cluster", "node")

__all__ = ["test_jupyterlab_services_runs_a_session_from_start_to_end"]
