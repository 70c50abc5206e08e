"""jupyter-kernel-client, which drives a kernel over REST and one websocket."""

from __future__ import annotations

from typing import Any

from jupyter_kernel_client import JupyterKernelClient  # type: ignore[import-untyped]

from tests.e2e.servers import Service


def test_it_runs_interrupts_and_restarts_a_kernel_and_leaves_none(gateway: Service) -> None:
    before = gateway.kernel_ids()
    with JupyterKernelClient(server_url=gateway.url, token=gateway.token) as kernel:
        made = kernel.execute("made = 6 * 7\nprint(made)", timeout=60)
        assert made["status"] == "ok"
        assert "".join(output["text"] for output in made["outputs"]) == "42\n"
        failed = kernel.execute("1 / 0", timeout=60)
        assert (failed["status"], failed["outputs"][0]["ename"]) == ("error", "ZeroDivisionError")
        text, errors = "", []

        def hear(message: dict[str, Any]) -> None:
            nonlocal text
            if message["msg_type"] == "stream":
                # Once: where the machine is busy, ipykernel sends the line and its end apart.
                if not text:
                    kernel.interrupt()
                text += message["content"]["text"]
            elif message["msg_type"] == "error":
                errors.append(message["content"]["ename"])

        code = "import time; print('begun', flush=True); time.sleep(60)"
        assert kernel.execute_interactive(code, timeout=30, output_hook=hear)["content"]["status"] == "error"
        assert (text, errors) == ("begun\n", ["KeyboardInterrupt"])
        kernel.restart()
        forgotten = kernel.execute("made", timeout=60)
        assert forgotten["outputs"][0]["ename"] == "NameError"
    assert gateway.kernel_ids() == before
