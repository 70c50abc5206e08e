"""Run a notebook by nbclient on the gateway that JUPYTER_GATEWAY_URL names, and keep what came of it.

    python run_nbclient.py IN OUT

The manager is jupyter_server's, which reads its settings from the environment. There is no timeout.
"""

import sys

import nbformat
from manager import PatientKernelManager
from nbclient import NotebookClient

source, target = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
try:
    NotebookClient(notebook, timeout=None, kernel_manager_class=PatientKernelManager).execute()
finally:
    nbformat.write(notebook, target)
