"""@jupyterlab/services on executors: the tests of tests/e2e, unchanged."""

from __future__ import annotations

import pytest

from tests.e2e import test_node as suite

pytestmark = pytest.mark.requires("cluster", "node")

globals().update({name: value for name, value in vars(suite).items() if name.startswith("test_")})
