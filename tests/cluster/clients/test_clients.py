"""JupyterLab in a browser, nbclient, papermill and jupyter-kernel-client on executors.

The tests are those of tests/e2e, unchanged; conftest.py has another gateway for them.
"""

from __future__ import annotations

import pytest

from tests.e2e import test_jupyterlab, test_kernel_client, test_notebooks

pytestmark = pytest.mark.requires("cluster")

for module in (test_jupyterlab, test_kernel_client, test_notebooks):
    globals().update({name: value for name, value in vars(module).items() if name.startswith("test_")})
