"""Headless Chromium, and a notebook in JupyterLab as a person works it: with the mouse and the keyboard."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.e2e.servers import Server

#: The browser reaches this machine and nothing else, and no network of its own accord. It runs without
#: the sandbox of its own, which root cannot have.
ARGUMENTS = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "e2e"

#: Milliseconds for what a kernel does, its start included.
KERNEL = 60_000


def executable() -> str:
    """The path of Chromium; the tests fail where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("There is no Chromium here. Install it: apt-get install chromium")
    return found


def picture(page: Page, name: str) -> Path:
    """Keep what the page shows, as artifacts/e2e/<name>.png."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    page.screenshot(path=path)
    return path


class Notebook:
    """A notebook with given cells in a JupyterLab page of its own. Cells count from 0."""

    def __init__(self, context: BrowserContext, lab: Server, name: str, *cells: str, kernel: str = "python3"):
        self.lab = lab
        self.name = re.sub(r"\W+", "-", name)
        self.path = f"{self.name}.ipynb"
        status, _ = lab.call("PUT", f"/api/contents/{self.path}", _document(kernel, cells))
        assert status == 201, status
        self.page = context.new_page()
        self.visit()

    def visit(self) -> None:
        """Load the page, in a workspace that holds this notebook alone, and wait for its kernel."""
        self.page.goto(f"{self.lab.url}/lab/workspaces/{self.name}/tree/{self.path}?token={self.lab.token}")
        self.wait_for_status("Idle")

    def wait_for_status(self, status: str) -> None:
        """Wait until the status bar shows the kernel in this state, such as `Idle`.

        The circle in the notebook's toolbar is also that of an idle kernel before there is one.
        """
        shown = self.page.locator("#jp-main-statusbar").get_by_text(f"| {status}")
        expect(shown).to_be_visible(timeout=KERNEL)

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        return self.cell(index).locator(".jp-OutputArea-output")

    def prompt(self, index: int) -> Locator:
        """`[*]:` while the cell runs, its number when it has run, `[ ]:` before that."""
        return self.cell(index).locator(".jp-InputArea-prompt").first

    def start(self, index: int) -> None:
        """Press Shift+Enter in a cell."""
        self.cell(index).locator(".cm-content").first.click()
        self.page.keyboard.press("Shift+Enter")

    def run(self, index: int) -> Locator:
        """Run a cell to its end; its outputs."""
        self.start(index)
        self.wait_for_end(index)
        return self.output(index)

    def wait_for_end(self, index: int) -> None:
        """Wait until a cell that was started has its number: the kernel has answered."""
        expect(self.prompt(index)).to_have_text(re.compile(r"\[\d+\]:"), timeout=KERNEL)

    def command(self, keys: str) -> None:
        """Leave the editor and type a shortcut of command mode, such as `ii` to interrupt."""
        self.page.keyboard.press("Escape")
        for key in keys:
            self.page.keyboard.press(key)

    def accept(self) -> None:
        """Answer a dialog with its main button."""
        self.page.locator(".jp-Dialog button.jp-mod-accept").click()

    def kernel_id(self) -> str:
        """The kernel that the notebook's session has."""
        _, sessions = self.lab.call("GET", "/api/sessions")
        (kernel,) = [session["kernel"]["id"] for session in sessions if session["path"] == self.path]
        return str(kernel)

    def close(self) -> None:
        """Keep a picture, close the page and end the notebook's sessions."""
        picture(self.page, self.name)
        self.page.close()
        _, sessions = self.lab.call("GET", "/api/sessions")
        for session in sessions:
            if session["path"] == self.path:
                self.lab.call("DELETE", f"/api/sessions/{session['id']}")


def _document(kernel: str, cells: tuple[str, ...]) -> dict[str, object]:
    """A notebook file (nbformat 4.5) as the contents API takes it."""
    return {
        "type": "notebook",
        "format": "json",
        "content": {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": kernel, "display_name": kernel}},
            "cells": [
                {
                    "id": f"cell-{number}",
                    "cell_type": "code",
                    "source": source,
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                }
                for number, source in enumerate(cells)
            ],
        },
    }
