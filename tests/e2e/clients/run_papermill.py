"""Run a notebook by papermill on the gateway that JUPYTER_GATEWAY_URL names.

python run_papermill.py IN OUT NAME=VALUE...
"""

import sys

import papermill  # type: ignore[import-untyped]
from manager import PatientKernelManager

source, target, *parameters = sys.argv[1:]
papermill.execute_notebook(
    source,
    target,
    {name: float(value) for name, value in (parameter.split("=") for parameter in parameters)},
    progress_bar=False,
    kernel_manager_class=PatientKernelManager,
)
