"""What a person reads when the gateway is up: where it is, and lines to paste that use it."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

#: Stands in a printed line for a token that the person has chosen, and that is not printed.
PLACE_OF_TOKEN = "YOUR-TOKEN"  # noqa: S105  # not a token


def jupyter_program() -> Path | None:
    """The `jupyter` of this environment, if JupyterLab is in it."""
    program = Path(sys.prefix, "bin", "jupyter")
    return program if importlib.util.find_spec("jupyterlab") and program.exists() else None


def lab_line(jupyter: Path, url: str, token: str, folder: Path, *, as_root: bool, display: bool) -> str:
    """The command that starts JupyterLab on this gateway.

    What a cell shows may hold JavaScript, which runs in JupyterLab's origin and may do what its user may. So
    this JupyterLab has a folder that holds nothing of value, and little else:

    - no configuration but this line: files of it switch on server extensions, which run programs (terminals
      and language servers are such); and its settings are in a temporary folder, not in the person's own;
    - a user whom our class refuses what runs programs or leads out of the folder;
    - an extension manager that cannot search, which would have the server send a page's words to PyPI;
    - a list of trusted notebooks that ends with it: the person's other JupyterLabs share the usual one.

    The connection class is ours because jupyter_server's loses messages with buffers on their way.
    """
    words = [
        str(jupyter),
        "lab",
        f"--gateway-url={url}",
        "--ServerApp.kernel_websocket_connection_class=gateway.lab.GatewayConnection",
        "--ServerApp.identity_provider_class=gateway.lab.ScratchUser",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--NotebookNotary.db_file=:memory:",
        f"--ServerApp.root_dir={folder}",
    ]
    if not display:
        words.append("--no-browser")
    if as_root:
        words.append("--allow-root")
    secret = f"JUPYTER_GATEWAY_AUTH_TOKEN={shlex.quote(token)} " if token else ""
    return f"{secret}JUPYTER_NO_CONFIG=1 {shlex.join(words)}"


def lab_lines(
    jupyter: Path, url: str, token: str, folder: Path, *, as_root: bool, display: bool
) -> list[str]:
    """What is printed about JupyterLab; makes the folder, or says in the command's place why it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [
            f"There is no line for JupyterLab: its scratch folder {folder} cannot be made "
            f"({error.strerror}). Name another with --JupyterGateway.lab_folder."
        ]
    line = lab_line(jupyter, url, token, folder, as_root=as_root, display=display)
    return ["JupyterLab on it, in another terminal:", f"  {line}"]


def curl_line(url: str, token: str) -> str:
    """The command that starts a kernel."""
    words = ["curl", "--fail-with-body", "--silent", "--show-error", "-X", "POST", f"{url}api/kernels"]
    if token:
        words[1:1] = ["-H", f"Authorization: token {token}"]
    return shlex.join(words)


def has_display(environment: Mapping[str, str]) -> bool:
    """Whether a browser could open a window here."""
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
