"""thebe in a browser: a page of another origin whose cells run on the gateway."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.e2e.browser import KERNEL, picture
from tests.e2e.processes import free_port, wait_until
from tests.e2e.servers import Gateway, running_gateway

pytestmark = [pytest.mark.requires("node"), pytest.mark.requires("chromium")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing about it."""

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path, port: int) -> Iterator[str]:
    """A web server for a folder: an origin of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def page_for(
    gateway: Gateway, origin_port: int, browser: BrowserContext, npm: Path, folder: Path
) -> Iterator[Page]:
    """A page with one cell that uses the gateway, at an origin of that port."""
    folder.joinpath("thebe").symlink_to(npm / "node_modules" / "thebe")
    source = (npm / "thebe.html").read_text()
    page_source = source.replace("@URL@", gateway.url).replace("@TOKEN@", gateway.token)
    folder.joinpath("page.html").write_text(page_source)
    with serving(folder, origin_port) as origin:
        page = browser.new_page()
        page.goto(f"{origin}/page.html")
        yield page
        page.close()


def test_a_page_of_an_allowed_origin_runs_its_cell(
    teaching: Path, browser: BrowserContext, npm: Path, tmp_path: Path
) -> None:
    port = free_port()
    allowed = f"--WebOptions.allow_origin=http://127.0.0.1:{port}"
    with (
        running_gateway(tmp_path / "gateway", teaching, allowed) as gateway,
        page_for(gateway, port, browser, npm, tmp_path) as page,
    ):
        expect(page.locator(".thebe-status")).to_contain_text("Kernel Connected", timeout=KERNEL)
        page.get_by_role("button", name="run", exact=True).click()
        expect(page.locator(".jp-OutputArea-output")).to_have_text("42\n", timeout=KERNEL)
        picture(page, "thebe")
        (session,) = gateway.call("GET", "/api/sessions")[1]
        assert session["path"] == "page.ipynb"


def test_a_page_of_a_foreign_origin_starts_nothing(
    gateway: Gateway, browser: BrowserContext, npm: Path, tmp_path: Path
) -> None:
    before = gateway.kernel_ids()
    refused: list[str] = []
    browser.on("requestfailed", lambda request: refused.append(request.url))
    with page_for(gateway, free_port(), browser, npm, tmp_path) as page:

        def was_refused() -> bool:
            page.wait_for_timeout(100)
            return any(url.startswith(gateway.url) for url in refused)

        wait_until(was_refused, "the browser is refused")
    assert gateway.kernel_ids() == before
