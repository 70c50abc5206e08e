"""@jupyterlab/services at a gateway outside of the cluster: the test of tests/e2e, unchanged."""

from __future__ import annotations

import pytest

from tests.e2e.test_node import test_jupyterlab_services_runs_a_session_from_start_to_end

pytestmark = pytest.mark.requires("cluster", "node")

__all__ = ["test_jupyterlab_services_runs_a_session_from_start_to_end"]
