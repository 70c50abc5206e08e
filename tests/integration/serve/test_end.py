"""How a gateway with running cells ends: they get their grace, no more, and less after a second signal."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cells import run_cell
from tests.support.gateways import GatewayProgram, bare_environment, call, gateway_command

TOKEN = "end-token"  # noqa: S105  # of a gateway that lives for one test


@pytest.fixture
def grace() -> int:
    """Seconds that running cells get."""
    return 20


@pytest.fixture
def gateway(tmp_path: Path, grace: int) -> Iterator[GatewayProgram]:
    options = ["--port=0", f"--token={TOKEN}", f"--JupyterGateway.drain_grace={grace}"]
    program = GatewayProgram(gateway_command(*options), bare_environment(tmp_path), tmp_path)
    yield program
    program.close()


def start_kernel(url: str) -> str:
    status, kernel = call(f"{url}api/kernels", TOKEN, "POST", {"name": "python3"})
    assert status == 201, kernel
    return str(kernel["id"])


def test_sigterm_lets_a_running_cell_end_and_starts_no_new_kernel(gateway: GatewayProgram) -> None:
    url = gateway.url()
    kernel_id = start_kernel(url)
    refused: list[int] = []

    def stop() -> None:
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_for("stopping")
        refused.append(call(f"{url}api/kernels", TOKEN, "POST", {"name": "python3"})[0])
        refused.append(call(f"{url}readyz")[0])

    code = "import time; print('begun', flush=True); time.sleep(3); print('ended')"
    assert asyncio.run(run_cell(code, url, TOKEN, kernel_id, stop)).split() == ["begun", "ended"]
    assert refused == [503, 503]
    assert gateway.wait() == 0


@pytest.mark.parametrize("grace", [4])
def test_a_cell_that_does_not_end_gets_its_grace_and_no_more(gateway: GatewayProgram, grace: int) -> None:
    url = gateway.url()
    kernel_id = start_kernel(url)
    began = 0.0

    def stop() -> None:
        nonlocal began
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)

    code = "import time; print('begun', flush=True); time.sleep(100)"
    printed = asyncio.run(run_cell(code, url, TOKEN, kernel_id, stop))
    assert printed.splitlines() == ["begun", "The kernel was shut down."]
    assert gateway.wait() == 0
    # What comes on top is the kernel's end: a second to end by itself, and then it is killed.
    assert grace <= time.monotonic() - began < grace + 10
    assert f"some kernels were still busy when the grace of {grace} s ended" in gateway.text


def test_a_second_signal_does_not_wait_for_a_running_cell(gateway: GatewayProgram) -> None:
    url = gateway.url()
    kernel_id = start_kernel(url)
    began = time.monotonic()

    def stop() -> None:
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_for("stopping")
        gateway.process.send_signal(signal.SIGTERM)

    code = "import time; print('begun', flush=True); time.sleep(100)"
    with pytest.raises((EOFError, OSError)):
        asyncio.run(run_cell(code, url, TOKEN, kernel_id, stop))
    assert gateway.wait() == -signal.SIGTERM
    assert time.monotonic() - began < 15
