"""The contract of `gateway/backends/base.py` over executors: the suite that holds every backend to it."""

from __future__ import annotations

import pytest

from tests.conformance.backend import test_backend as suite

pytestmark = [pytest.mark.gen_test(timeout=300), pytest.mark.requires("cluster")]

globals().update({name: value for name, value in vars(suite).items() if name.startswith("test_")})
