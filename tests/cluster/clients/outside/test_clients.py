"""JupyterLab, nbclient and jupyter-kernel-client at a gateway outside of the cluster.

A few of the tests of tests/e2e, unchanged; chart/ has them all. What differs here is the gateway's way to the
API server.
"""

from __future__ import annotations

import pytest

from tests.e2e.test_jupyterlab import (
    test_a_kernel_that_dies_ends_its_cell_and_says_so,
    test_cells_show_text_a_table_and_an_image,
)
from tests.e2e.test_kernel_client import test_it_runs_interrupts_and_restarts_a_kernel_and_leaves_none
from tests.e2e.test_notebooks import test_nbclient_runs_the_first_notebook

pytestmark = pytest.mark.requires("cluster")

__all__ = [
    "test_a_kernel_that_dies_ends_its_cell_and_says_so",
    "test_cells_show_text_a_table_and_an_image",
    "test_it_runs_interrupts_and_restarts_a_kernel_and_leaves_none",
    "test_nbclient_runs_the_first_notebook",
]
