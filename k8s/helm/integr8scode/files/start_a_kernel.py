"""A client: start a kernel, run a cell, delete the kernel. Given are HOST:PORT and the token's file."""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

#: Seconds for a policy of the network to let this pod out, and for a kernel to start, its image pulled.
TO_REACH = 30
TO_RUN = 180


async def main(place: str, token: str) -> None:
    headers = {"Authorization": f"token {token}"}

    async def ask(method: str, path: str) -> Any:
        body = "{}" if method == "POST" else None
        request = HTTPRequest(f"http://{place}{path}", method, headers, body, request_timeout=60)
        answer = await AsyncHTTPClient().fetch(request)
        return json.loads(answer.body or "null")

    async with asyncio.timeout(TO_REACH):
        while True:
            try:
                await ask("GET", "/api/kernelspecs")
                break
            except OSError as error:
                print(f"{place} is not reached: {error}", flush=True)
                await asyncio.sleep(1)
    kernel = await ask("POST", "/api/kernels")
    print("started", kernel, flush=True)
    path = f"/api/kernels/{kernel['id']}"
    try:
        url = f"ws://{place}{path}/channels"
        socket = await websocket_connect(HTTPRequest(url, headers=headers))
        async with asyncio.timeout(TO_RUN):
            printed = await run(socket, "print(6 * 7)")
    except TimeoutError:
        sys.exit(f"no answer within {TO_RUN} s; the kernel is {await ask('GET', path)}")
    finally:
        await ask("DELETE", path)
    print("printed", printed, flush=True)
    if printed != "42\n":
        sys.exit("that is not what the cell prints")


async def run(socket: Any, code: str) -> str:
    """What the cell has printed, when it has ended."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": uuid.uuid4().hex}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    header |= {"username": "helm", "version": "5.3"}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
    await socket.write_message(json.dumps({**request, "channel": "shell", "buffers": []}))
    printed = ""
    while True:
        text = await socket.read_message()
        if text is None:
            sys.exit("the gateway has closed the websocket")
        message = json.loads(text)
        if message["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if message["msg_type"] in ("stream", "error"):
            printed += message["content"].get("text") or "\n".join(message["content"]["traceback"])
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return printed


try:
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text().strip()))
except HTTPClientError as error:
    body = error.response.body.decode() if error.response else ""
    sys.exit(f"{error}: {body}")
