"""notebooks/ on the gateway, run by the programs that run notebooks without a person."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.e2e.processes import quiet_environment, wait_until
from tests.e2e.servers import Gateway, Service, running_gateway

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parents[1] / "notebooks"


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory, teaching: Path) -> Iterator[Gateway]:
    """A gateway that takes the token in the path of a websocket, for which it has to be told."""
    folder = tmp_path_factory.mktemp("open-gateway")
    with running_gateway(folder, teaching, "--WebOptions.allow_path_token=True") as server:
        yield server


def run(
    program: str, gateway: Service, folder: Path, ws_url: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """One of clients/*.py with jupyter_server's gateway settings in its environment."""
    env = quiet_environment(
        folder,
        JUPYTER_GATEWAY_URL=gateway.url,
        JUPYTER_GATEWAY_WS_URL=ws_url,
        JUPYTER_GATEWAY_AUTH_TOKEN=gateway.token,
    )
    return subprocess.run(
        [sys.executable, HERE / "clients" / program, *arguments],
        env=env,
        cwd=folder,
        timeout=120,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def with_token(gateway: Service) -> str:
    """The ws_url that carries the token."""
    return f"ws{gateway.url.removeprefix('http')}/t/{gateway.token}"


def texts(path: Path) -> dict[str, str]:
    """What each code cell of a notebook has printed, by the cell's id."""
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    return {
        cell.id: "".join(output.text for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def shown(path: Path) -> set[str]:
    """The MIME types of what a notebook's cells show."""
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", ())]
    return {kind for output in outputs for kind in output.get("data", ())}


def test_nbclient_runs_the_tour_and_every_attack_ends_as_the_notebook_says(
    open_gateway: Service, tmp_path: Path
) -> None:
    tour, out = NOTEBOOKS / "tour.ipynb", tmp_path / "out.ipynb"
    done = run("run_nbclient.py", open_gateway, tmp_path, with_token(open_gateway), str(tour), str(out))
    assert done.returncode == 0, done.stdout
    assert texts(out) == texts(tour)
    assert len(texts(tour)) >= 7
    assert all(texts(tour).values())


def test_nbclient_runs_the_first_notebook(open_gateway: Service, tmp_path: Path) -> None:
    source, out = NOTEBOOKS / "falling-ball.ipynb", tmp_path / "out.ipynb"
    ws_url = with_token(open_gateway)
    done = run("run_nbclient.py", open_gateway, tmp_path, ws_url, str(source), str(out))
    assert done.returncode == 0, done.stdout
    assert "From 20 m it falls for 2.02 s.\n" in texts(out).values()
    assert {"text/html", "image/png", "application/vnd.jupyter.widget-view+json"} <= shown(out)


def test_papermill_runs_a_notebook_with_a_parameter(open_gateway: Service, tmp_path: Path) -> None:
    source, out = NOTEBOOKS / "falling-ball.ipynb", tmp_path / "out.ipynb"
    ws_url = with_token(open_gateway)
    done = run("run_papermill.py", open_gateway, tmp_path, ws_url, str(source), str(out), "height=5")
    assert done.returncode == 0, done.stdout
    assert "From 5 m it falls for 1.01 s.\n" in texts(out).values()
    assert {"text/html", "image/png"} <= shown(out)


DEATHS = {
    "it exits": ("import os; os._exit(7)", "The kernel ended with exit code 7."),
    "it kills itself": ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
}


HUNGRY = "taken = [bytearray(1 << 24) for _ in range(1000)]"


@pytest.mark.parametrize(("code", "reason"), DEATHS.values(), ids=DEATHS)
def test_nbclient_without_a_timeout_ends_when_its_kernel_dies_in_a_cell(
    code: str, reason: str, open_gateway: Service, tmp_path: Path
) -> None:
    dies_in_a_cell(code, reason, open_gateway, tmp_path)


@pytest.mark.requires("cgroup")
def test_nbclient_without_a_timeout_is_told_that_its_kernel_took_too_much_memory(
    open_gateway: Service, tmp_path: Path
) -> None:
    dies_in_a_cell(HUNGRY, "memory", open_gateway, tmp_path)


def dies_in_a_cell(code: str, reason: str, open_gateway: Service, tmp_path: Path) -> None:
    source, out = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), source)  # type: ignore[no-untyped-call]
    started = time.monotonic()
    done = run("run_nbclient.py", open_gateway, tmp_path, with_token(open_gateway), str(source), str(out))
    assert time.monotonic() - started < 60
    assert done.returncode != 0
    assert reason in "".join(texts(out).values())
    assert "KernelDied" in done.stdout


def test_a_gateway_that_takes_no_token_in_paths_names_the_setting_in_its_log(
    gateway: Gateway, tmp_path: Path
) -> None:
    names_the_setting(
        gateway,
        lambda: gateway.program.output().split("A kernel on it, by hand:")[1].split("\n", 2)[2],
        tmp_path,
    )


def names_the_setting(gateway: Service, logged: Callable[[], str], tmp_path: Path) -> None:
    """`logged`: what the gateway has logged since it serves."""
    source, out = NOTEBOOKS / "falling-ball.ipynb", tmp_path / "out.ipynb"
    ws_url = f"ws{gateway.url.removeprefix('http')}"
    before = gateway.kernel_ids()
    done = run("run_nbclient.py", gateway, tmp_path, ws_url, str(source), str(out))
    assert done.returncode != 0
    wait_until(lambda: "allow_path_token" in logged(), "the log names the setting")
    assert gateway.token not in logged()
    assert gateway.kernel_ids() == before, "the kernel of a run that failed was left"
