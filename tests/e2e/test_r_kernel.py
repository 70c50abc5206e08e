"""IRkernel from Debian's packages in a sandbox: a kernel in which no line is Python."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.browser import KERNEL, Notebook, picture
from tests.e2e.servers import Gateway

KERNELSPECS = Path(__file__).parents[2] / "kernelspecs"


@pytest.fixture
def r(gateway: Gateway, open_notebook: Callable[..., Notebook]) -> Iterator[Callable[..., Notebook]]:
    """Opens R notebooks. The kernelspec is put into a folder that the running gateway watches."""
    folder = gateway.folder / "data" / "kernels" / "r-sandbox"
    shutil.copytree(KERNELSPECS / "ir", folder)
    yield lambda *cells: open_notebook(*cells, kernel="r-sandbox")
    shutil.rmtree(folder)


def test_r_runs_is_interrupted_restarted_and_its_death_is_told(r: Callable[..., Notebook]) -> None:
    notebook = r(
        "made <- 6 * 7\nprint(made)",
        "message('looping'); repeat {}",
        "print(made)",
        "exists('made')",
        "tools::pskill(Sys.getpid(), 9); Sys.sleep(60)",
        "print('alive')",
    )
    expect(notebook.run(0)).to_have_text("[1] 42\n")
    notebook.start(1)
    expect(notebook.output(1).first).to_contain_text("looping", timeout=KERNEL)
    notebook.command("ii")
    notebook.wait_for_end(1)
    expect(notebook.run(2)).to_have_text("[1] 42\n")
    notebook.command("00")
    notebook.accept()
    notebook.wait_for_status("Idle")
    expect(notebook.run(3)).to_contain_text("FALSE")
    notebook.start(4)
    expect(notebook.output(4)).to_contain_text("SIGKILL", timeout=KERNEL)
    picture(notebook.page, "r")
    notebook.accept()
    notebook.wait_for_status("Idle")
    expect(notebook.run(5)).to_have_text('[1] "alive"\n')
