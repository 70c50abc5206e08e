"""All that JupyterLab's server answers under the printed line: somebody has looked at each.

An output of a cell may call it all (docs/security.md). A release of JupyterLab that brings another handler
fails here until that has its line in one of these tables.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.web import HTTPError

from gateway.lab import ScratchUser
from tests.e2e.processes import quiet_environment
from tests.e2e.servers import BIN, Gateway

#: Prints [[pattern, handler, [method, ...]], ...] of a JupyterLab with the given arguments.
LIST = """
import json, sys
from jupyterlab.labapp import LabApp
from tornado.web import RequestHandler

def rules(router):
    for rule in router.rules:
        if hasattr(rule.target, "rules"):
            yield from rules(rule.target)
        else:
            yield rule.matcher.regex.pattern, rule.target

def methods(handler):
    unimplemented = RequestHandler._unimplemented_method
    return [name for name in handler.SUPPORTED_METHODS
            if getattr(handler, name.lower(), unimplemented) is not unimplemented]

app = LabApp.initialize_server(argv=sys.argv[1:])
print(json.dumps([(pattern, handler.__name__, methods(handler))
                  for pattern, handler in rules(app.web_app.default_router)]))
"""

#: What a page may call to change something: handler -> what it changes.
CHANGES = {
    "CheckpointsHandler": "copies a file within the folder, to .ipynb_checkpoints",
    "ContentsHandler": "files of the folder that are not hidden; what it deletes goes to the trash",
    "KernelActionHandler": "a kernel of the gateway",
    "KernelHandler": "a kernel of the gateway",
    "LoginFormHandler": "a password, in the temporary configuration folder",
    "MainKernelHandler": "starts a kernel of the gateway",
    "ModifyCheckpointsHandler": "a file of the folder, back to what it was; checkpoints",
    "SessionHandler": "sessions, which are in memory, and a kernel of the gateway",
    "SessionRootHandler": "sessions, which are in memory, and starts a kernel of the gateway",
    "SettingsHandler": "a file with the name of a setting, in the temporary configuration folder",
    "ShutdownHandler": "ends this JupyterLab",
    "TrustNotebooksHandler": "a list in memory, and the notebook",
    "WorkspacesHandler": "a file with a name of letters, in the temporary configuration folder",
}

#: What a page may only read: handler -> what it shows.
READS = {
    "APISpecHandler": "a file of jupyter_server's",
    "APIStatusHandler": "numbers",
    "APIVersionHandler": "a number",
    "AuthenticatedFileHandler": "files of the folder that are not hidden",
    "CheckForUpdateHandler": "asks PyPI for JupyterLab's newest version",
    "ConfigHandler": "the temporary configuration folder",
    "ExtensionHandler": "which extensions there are; readonly: asks nobody",
    "FileFindHandler": "files that packages have installed for pages",
    "IdentityHandler": "the user's made-up name",
    "KernelSpecHandler": "a kernelspec of the gateway",
    "KernelSpecResourceHandler": "a file of a kernelspec, from the gateway",
    "KernelWebsocketHandler": "joins the page to a kernel of the gateway",
    "LabHandler": "the page",
    "LicensesHandler": "licences of packages",
    "ListingsHandler": "nothing: there are no lists",
    "LogoutHandler": "takes the page's cookie away",
    "MainKernelSpecHandler": "the gateway's kernelspecs",
    "NewsHandler": "nothing: news_url is None",
    "NotFoundHandler": "the page",
    "NotebooksRedirectHandler": "sends the page to ContentsHandler",
    "PathResolverHandler": "whether there is a file, within the folder",
    "PluginHandler": "which plugins are locked",
    "PrometheusMetricsHandler": "numbers",
    "PublicStaticFileHandler": "files of jupyter_server's",
    "RedirectWithParams": "sends the page to LabHandler",
    "SubscribeWebsocket": "events of this server: names of files that are saved",
    "Template404": "an error",
    "ThemesHandler": "files that packages have installed for pages",
    "TrailingSlashHandler": "sends the page to the same address without the slash",
    "TranslationsHandler": "language packs; imports the packages that are installed as such",
    "ViewHandler": "a page around a file of the folder",
}

#: Refused altogether.
REFUSED = {
    "BuildHandler": "runs node and yarn",
    "CSPReportHandler": "writes what it is sent to the log",
    "EventHandler": "sends what it is sent to who listens to events",
    "NbconvertFileHandler": "runs LaTeX",
    "NbconvertPostHandler": "runs LaTeX",
    "NbconvertRootHandler": "lists what the two above can do",
}


@pytest.fixture(scope="module")
def handlers(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, list[str]]]:
    """(pattern, handler, methods) of what the printed line's JupyterLab registers."""
    folder = tmp_path_factory.mktemp("handlers")
    words = shlex.split(gateway.lab_line)
    program = words.index("lab")
    settings = dict(word.split("=", 1) for word in words[: program - 1])
    done = subprocess.run(
        [BIN / "python", "-c", LIST, *words[program + 1 :]],
        env=quiet_environment(folder, TMPDIR=str(folder), **settings),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [(pattern, handler, methods) for pattern, handler, methods in json.loads(done.stdout)]


def allows(method: str, pattern: str) -> bool:
    """Whether the user of the printed line may send this, judged by the part of the pattern that is fixed."""
    path = "/" + re.split(r"[(?$]", pattern)[0].strip("/")
    request = SimpleNamespace(method=method, path=path)
    try:
        user = ScratchUser().get_user(cast(Any, SimpleNamespace(request=request, settings={"base_url": "/"})))
    except HTTPError:
        return False
    cast(Coroutine[Any, Any, Any], user).close()
    return True


def test_every_handler_of_the_printed_line_has_been_looked_at(
    handlers: list[tuple[str, str, list[str]]],
) -> None:
    allowed: dict[str, set[str]] = {}
    for pattern, handler, methods in handlers:
        # A handler without a method answers 404 to all.
        allowed.setdefault(handler, set()).update(m for m in methods or ["GET"] if allows(m, pattern))
    changes = {handler for handler, methods in allowed.items() if methods - {"GET", "HEAD", "OPTIONS"}}
    refused = {handler for handler, methods in allowed.items() if not methods - {"OPTIONS"}}
    assert (changes, refused) == (set(CHANGES), set(REFUSED))
    assert set(allowed) - changes - refused == set(READS)
