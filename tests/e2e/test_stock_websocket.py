"""JupyterLab with jupyter_server's own connection class: buffers are lost, and nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from tests.e2e.browser import Notebook
from tests.e2e.servers import Gateway, Server, running_lab

#: One red pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, gateway: Gateway) -> Iterator[Server]:
    """JupyterLab by the printed line without its connection class."""
    words = gateway.lab_line.split(" ")
    line = " ".join(word for word in words if "kernel_websocket_connection_class" not in word)
    assert line != gateway.lab_line
    with running_lab(tmp_path_factory.mktemp("stock-lab"), line) as server:
        yield server


def test_a_message_with_buffers_arrives_without_them_and_the_cells_after_it_run(
    open_notebook: Callable[..., Notebook],
) -> None:
    notebook = open_notebook(
        f"import ipywidgets as widgets\nPNG = {PNG!r}\nimage = widgets.Image(value=PNG)\nimage",
        "print('after a message to the page')",
        "upload = widgets.FileUpload()\nupload",
        "print('after a message from the page')",
    )
    shown = notebook.run(0).locator("img.widget-image")
    # Messages come in order: with this cell's, those of the image have come.
    expect(notebook.run(1)).to_have_text("after a message to the page\n")
    expect(shown).to_have_attribute("src", re.compile("^blob:"))
    expect(shown).to_have_js_property("complete", value=True)
    assert shown.evaluate("image => image.naturalWidth") == 0
    with notebook.page.expect_file_chooser() as chooser:
        notebook.run(2).locator("button.widget-upload").click()
    chooser.value.set_files({"name": "bytes", "mimeType": "", "buffer": bytes(range(256))})
    expect(notebook.run(3)).to_have_text("after a message from the page\n")
