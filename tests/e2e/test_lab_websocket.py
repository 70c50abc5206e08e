"""`gateway.lab.GatewayConnection` in JupyterLab's server, seen from the page's side of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tests.e2e.servers import Gateway, Server, running_gateway, running_lab
from tests.e2e.test_by_hand import execute_request, is_end, printed

V1 = "v1.kernel.websocket.jupyter.org"


@pytest.fixture
def own_gateway(tmp_path: Path, teaching: Path) -> Iterator[Gateway]:
    """A gateway that a test may end."""
    with running_gateway(tmp_path / "gateway", teaching) as server:
        yield server


@pytest.fixture
def own_lab(tmp_path: Path, own_gateway: Gateway) -> Iterator[Server]:
    with running_lab(tmp_path / "lab", own_gateway.lab_line) as server:
        yield server


def start_kernel(lab: Server) -> str:
    status, kernel = lab.call("POST", "/api/kernels", {"name": "python3"})
    assert status == 201
    return str(kernel["id"])


async def connect(lab: Server, kernel: str, *subprotocols: str) -> WebSocketClientConnection:
    url = f"ws{lab.url.removeprefix('http')}/api/kernels/{kernel}/channels?session_id=page&token={lab.token}"
    return await websocket_connect(url, subprotocols=[*subprotocols] or None)


async def run(websocket: WebSocketClientConnection, code: str) -> str:
    """Run a cell over text frames; what it printed."""
    request = execute_request(code)
    await websocket.write_message(json.dumps(request))
    heard: list[dict[str, Any]] = []
    while not is_end(heard, request):
        heard.append(json.loads(await websocket.read_message() or ""))
    return "".join(map(printed, heard))


async def end(websocket: WebSocketClientConnection) -> tuple[int | None, str]:
    """Read to the end; its code and reason."""
    while await websocket.read_message() is not None:
        pass
    told = websocket.close_code, websocket.close_reason or ""
    # Tornado complains of a client that was not closed from this side too, whenever it is collected.
    websocket.close()
    return told


@pytest.mark.gen_test(timeout=60)
async def test_a_page_without_the_subprotocol_speaks_text_to_the_gateway(lab: Server) -> None:
    kernel = start_kernel(lab)
    websocket = await connect(lab, kernel)
    assert websocket.selected_subprotocol is None
    assert await run(websocket, "print(6 * 7)") == "42\n"
    websocket.close()
    await end(websocket)
    assert lab.call("DELETE", f"/api/kernels/{kernel}")[0] == 204


@pytest.mark.gen_test(timeout=120)
async def test_a_page_whose_socket_breaks_amid_an_output_has_all_of_it_when_it_comes_back(
    gateway: Gateway, lab: Server
) -> None:
    kernel = start_kernel(lab)
    page = await connect(lab, kernel)
    other = await websocket_connect(
        f"ws{gateway.url.removeprefix('http')}/api/kernels/{kernel}/channels?token={gateway.token}"
    )
    request = execute_request(
        "import time\nfor number in range(100):\n    print(number, flush=True); time.sleep(0.03)"
    )
    await page.write_message(json.dumps(request))
    heard = await hear(page, "20\n")
    # The page reads no more. Its server goes on, and has had all of this when another client has.
    await hear(other, "80\n")
    other.close()
    await end(other)
    page.stream.close()
    while (late := await page.read_message()) is not None:
        heard.append(json.loads(late))
    page.close()
    again = await connect(lab, kernel)
    await again.write_message(json.dumps(execute_request("print('end')")))
    heard += await hear(again, "end\n")
    again.close()
    await end(again)
    once = {message["header"]["msg_id"]: printed(message) for message in heard}
    assert "".join(once.values()).split() == [*map(str, range(100)), "end"]
    assert lab.call("DELETE", f"/api/kernels/{kernel}")[0] == 204


async def hear(websocket: WebSocketClientConnection, wanted: str) -> list[dict[str, Any]]:
    """The messages up to where this has been printed, be it by one of them or by several."""
    heard: list[dict[str, Any]] = []
    while wanted not in "".join(map(printed, heard)):
        heard.append(json.loads(await websocket.read_message() or ""))
    return heard


@pytest.mark.gen_test(timeout=60)
async def test_the_end_of_a_kernel_closes_the_page_with_the_gateways_code_and_reason(
    gateway: Gateway, lab: Server
) -> None:
    kernel = start_kernel(lab)
    websocket = await connect(lab, kernel)
    await run(websocket, "pass")
    assert gateway.call("DELETE", f"/api/kernels/{kernel}")[0] == 204
    assert await end(websocket) == (1001, "This kernel has been shut down.")


@pytest.mark.gen_test(timeout=120)
async def test_a_gateway_that_is_gone_closes_the_page_and_lets_nobody_hang(
    own_gateway: Gateway, own_lab: Server
) -> None:
    kernel = start_kernel(own_lab)
    websocket = await connect(own_lab, kernel, V1)
    assert websocket.selected_subprotocol == V1
    own_gateway.program.stop()
    code, _ = await end(websocket)
    assert code is not None
    code, reason = await end(await connect(own_lab, kernel, V1))
    assert (code, reason.partition(":")[0]) == (1011, "The kernel's gateway cannot be reached")
