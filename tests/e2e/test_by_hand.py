"""What a person does without a Jupyter client: curl lines, printed and in README, and Tornado's websocket."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import websocket_connect

from tests.e2e.servers import Gateway

README = Path(__file__).parents[2] / "README.md"


def test_the_printed_curl_line_starts_a_kernel(gateway: Gateway) -> None:
    done = subprocess.run(["/bin/sh", "-c", gateway.curl_line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    kernel = json.loads(done.stdout)
    assert (kernel["name"], kernel["execution_state"]) == ("python3", "idle")
    assert gateway.call("DELETE", f"/api/kernels/{kernel['id']}")[0] == 204


def test_the_curl_lines_of_the_readme_start_a_kernel_and_list_it(gateway: Gateway) -> None:
    start, list_all = curl_lines(gateway)
    started = json.loads(sh(start, gateway))
    assert (started["name"], started["execution_state"]) == ("python3", "idle")
    assert started["id"] in gateway.kernel_ids()
    assert started["id"] in [kernel["id"] for kernel in json.loads(sh(list_all, gateway))]
    assert gateway.call("DELETE", f"/api/kernels/{started['id']}")[0] == 204


def curl_lines(gateway: Gateway) -> list[str]:
    """The lines of README.md that a person pastes, for the port of this gateway."""
    lines = [line.strip() for line in README.read_text().splitlines() if line.startswith("    curl ")]
    assert all("http://127.0.0.1:8888/" in line for line in lines)
    return [line.replace("http://127.0.0.1:8888", gateway.url) for line in lines]


def sh(line: str, gateway: Gateway) -> str:
    """What a shell prints for the line, with the token where README's reader has it."""
    env = {**os.environ, "TOKEN": gateway.token}
    done = subprocess.run(["/bin/sh", "-c", line], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.gen_test(timeout=60)
async def test_a_websocket_of_text_frames_runs_a_cell(gateway: Gateway) -> None:
    _, kernel = gateway.call("POST", "/api/kernels", {"name": "python3"})
    url = f"ws{gateway.url.removeprefix('http')}/api/kernels/{kernel['id']}/channels?token={gateway.token}"
    websocket = await websocket_connect(url)
    request = execute_request("print(6 * 7)")
    await websocket.write_message(json.dumps(request))
    heard: list[dict[str, Any]] = []
    while not is_end(heard, request):
        message = await websocket.read_message()
        assert isinstance(message, str), "the gateway closed the websocket"
        heard.append(json.loads(message))
    websocket.close()
    while await websocket.read_message() is not None:
        pass  # until the gateway has closed it too, Tornado's task for it runs
    assert "".join(map(printed, heard)) == "42\n"
    assert gateway.call("DELETE", f"/api/kernels/{kernel['id']}")[0] == 204


def execute_request(code: str) -> dict[str, Any]:
    """An execute_request as a script writes it, by the messaging specification."""
    return {
        "channel": "shell",
        "header": {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": uuid.uuid4().hex,
            "username": "",
            "version": "5.3",
        },
        "parent_header": {},
        "metadata": {},
        "content": {"code": code, "silent": False},
    }


def is_end(heard: list[dict[str, Any]], request: dict[str, Any]) -> bool:
    """Whether the request has its reply and its idle."""
    answers = [m for m in heard if m["parent_header"].get("msg_id") == request["header"]["msg_id"]]
    idle = any(m["content"].get("execution_state") == "idle" for m in answers)
    return idle and any(m["header"]["msg_type"] == "execute_reply" for m in answers)


def printed(message: dict[str, Any]) -> str:
    """What a message says that a cell printed."""
    return str(message["content"]["text"]) if message["header"]["msg_type"] == "stream" else ""
