"""A cell as the plainest client runs it: JSON text on a websocket."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable

from tornado.websocket import websocket_connect


async def run_cell(
    code: str, url: str, token: str, kernel_id: str, started: Callable[[], object] = lambda: None
) -> str:
    """What the cell prints, once it has ended; `started` is called when it prints for the first time.

    Raises `TimeoutError` after a minute, and `EOFError` where the gateway closes the websocket first.
    """
    websocket = await websocket_connect(
        f"ws{url.removeprefix('http')}api/kernels/{kernel_id}/channels?token={token}"
    )
    request = uuid.uuid4().hex
    header = {
        "msg_id": request,
        "msg_type": "execute_request",
        "session": "s",
        "username": "",
        "version": "5.3",
    }
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
    }
    message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
    await websocket.write_message(json.dumps(message))
    printed = ""
    text: str | bytes | None = ""
    try:
        async with asyncio.timeout(60):
            while True:
                text = await websocket.read_message()
                if text is None:
                    raise EOFError("the gateway closed the websocket")
                answer = json.loads(text)
                if answer["parent_header"].get("msg_id") != request:
                    continue
                if answer["msg_type"] == "stream":
                    if not printed:
                        started()
                    printed += answer["content"]["text"]
                if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                    return printed
    finally:
        websocket.close()
        # Until the other side has closed too, there is a socket to give back. Its end is told once.
        async with asyncio.timeout(10):
            while text is not None:
                text = await websocket.read_message()
