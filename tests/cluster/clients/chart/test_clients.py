"""JupyterLab in a browser, nbclient, papermill and jupyter-kernel-client at the chart's Service.

The tests are those of tests/e2e, unchanged; conftest.py has another gateway for them. Only the tour is not
among them: it is the list of what is seen under bubblewrap, and tries what would have a pod evicted.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.kubectl import kubectl
from tests.cluster.operator import Operator
from tests.e2e import test_jupyterlab, test_kernel_client
from tests.e2e.servers import Service
from tests.e2e.test_notebooks import (
    HUNGRY,
    dies_in_a_cell,
    names_the_setting,
    test_nbclient_runs_the_first_notebook,
    test_nbclient_without_a_timeout_ends_when_its_kernel_dies_in_a_cell,
    test_papermill_runs_a_notebook_with_a_parameter,
)

pytestmark = pytest.mark.requires("cluster", "own-cluster")

__all__ = [
    "test_nbclient_runs_the_first_notebook",
    "test_nbclient_without_a_timeout_ends_when_its_kernel_dies_in_a_cell",
    "test_papermill_runs_a_notebook_with_a_parameter",
]

for module in (test_jupyterlab, test_kernel_client):
    globals().update({name: value for name, value in vars(module).items() if name.startswith("test_")})


def test_nbclient_without_a_timeout_is_told_that_its_kernel_took_too_much_memory(
    open_gateway: Service, tmp_path: Path
) -> None:
    dies_in_a_cell(HUNGRY, "memory", open_gateway, tmp_path)


def test_a_gateway_that_takes_no_token_in_paths_names_the_setting_in_its_log(
    operator: Operator, gateway: Service, tmp_path: Path
) -> None:
    words = ("logs", "--namespace", operator.namespace, "deployment/gateway")
    names_the_setting(gateway, lambda: kubectl(*words), tmp_path)
