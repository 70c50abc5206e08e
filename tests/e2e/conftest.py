"""One gateway, one JupyterLab and one browser for the real clients; each test has notebooks of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, sync_playwright

from tests.e2e.browser import ARGUMENTS, Notebook, executable
from tests.e2e.servers import Gateway, Server, lab_without_news, running_gateway

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def teaching() -> Path:
    """The teaching environment, built as `make serve` builds it (nothing to do when it is up to date)."""
    folder = REPOSITORY / "build" / "python3"
    subprocess.run([REPOSITORY / "kernelspecs" / "build", folder, sys.executable], check=True, timeout=900)
    return folder


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, teaching: Path) -> Iterator[Gateway]:
    """The gateway, with sandboxes and authentication on."""
    with running_gateway(tmp_path_factory.mktemp("gateway"), teaching) as server:
        yield server


@pytest.fixture(scope="session")
def npm() -> Path:
    """The folder of the clients from npm, fetched where they are not there yet."""
    folder = Path(__file__).parent / "clients"
    subprocess.run([folder / "install"], check=True, timeout=300)
    return folder


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, gateway: Gateway) -> Iterator[Server]:
    """JupyterLab by the printed line."""
    with lab_without_news(tmp_path_factory.mktemp("lab"), gateway.lab_line) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """Headless Chromium, one cache for a module: on the disk, where it keeps compiled scripts too.

    A module, not the session: Playwright's loop counts as the thread's running one while it lives, and
    the tests of other modules run loops of their own.
    """
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=executable(),
            args=ARGUMENTS,
            viewport={"width": 1280, "height": 960},
        )
        context.set_default_timeout(30_000)
        yield context
        context.close()


@pytest.fixture
def open_notebook(
    browser: BrowserContext, lab: Server, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Notebook]]:
    """Opens notebooks with the given cells; afterwards their pictures are kept and their kernels ended."""
    opened: list[Notebook] = []

    def open_notebook(*cells: str, kernel: str = "python3") -> Notebook:
        name = f"{request.node.name.removeprefix('test_')}-{len(opened)}"
        opened.append(Notebook(browser, lab, name, *cells, kernel=kernel))
        return opened[-1]

    yield open_notebook
    for notebook in opened:
        notebook.close()
