"""JupyterLab in a browser, by the printed line, on a kernel in a sandbox."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable

from playwright.sync_api import Locator, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.e2e.browser import KERNEL, Notebook, picture
from tests.e2e.processes import wait_until

OpenNotebook = Callable[..., Notebook]


def test_cells_show_text_a_table_and_an_image(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(
        "print(6 * 7)",
        "import pandas as pd\npd.DataFrame({'square': [n * n for n in range(4)]})",
        "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9]);",
    )
    expect(notebook.run(0)).to_have_text("42\n")
    table = notebook.run(1).locator("table")
    expect(table.locator("tbody tr")).to_have_count(4)
    expect(table).to_contain_text("square")
    image = notebook.run(2).locator("img")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.complete && image.naturalWidth") > 300


PICTURE = (
    """\
import socket

for address in [("example.org", 443), ("127.0.0.1", 8888)]:
    try:
        socket.create_connection(address, timeout=5)
    except OSError as error:
        print(*address, "->", error)
""",
    """\
import matplotlib.pyplot as plt
import numpy as np

time = np.linspace(0, 2, 100)
plt.figure(figsize=(6, 2.2))
plt.plot(time, 20 - 9.81 * time**2 / 2)
plt.xlabel("time in s")
plt.ylabel("height in m");
""",
    """\
import ipywidgets as widgets

@widgets.interact(height=(1, 100))
def fall(height=20):
    print(f"From {height} m it falls for {np.sqrt(2 * height / 9.81):.2f} s.")
""",
)


def test_a_kernel_without_a_network_is_a_kernel_like_any_other(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(*(source.strip() for source in PICTURE))
    expect(notebook.run(0)).to_have_text(
        "example.org 443 -> [Errno -2] Name or service not known\n"
        "127.0.0.1 8888 -> [Errno 111] Connection refused\n"
    )
    expect(notebook.run(1).locator("img")).to_be_visible()
    expect(notebook.run(2).first).to_contain_text("From 20 m it falls for 2.02 s.")
    # The picture of README.md and docs/, taken from here by hand.
    picture(notebook.page, "jupyterlab")


def test_an_error_shows_its_traceback(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("def divide(n):\n    return 1 / n\n\ndivide(0)")
    output = notebook.run(0)
    expect(output).to_contain_text("ZeroDivisionError: division by zero")
    expect(output).to_contain_text("return 1 / n")


def test_input_asks_the_person_at_the_notebook(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("name = input('Who? ')\nprint('Hello,', name)")
    notebook.start(0)
    answer = notebook.cell(0).locator(".jp-Stdin-input")
    answer.fill("Ada")
    answer.press("Enter")
    notebook.wait_for_end(0)
    expect(notebook.output(0).last).to_have_text("Hello, Ada\n")


def test_interrupt_ends_a_cell_and_keeps_what_it_made(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("made = 7\nprint('looping')\nwhile True: pass", "print(made)")
    notebook.start(0)
    expect(notebook.output(0).first).to_contain_text("looping", timeout=KERNEL)
    notebook.command("ii")
    notebook.wait_for_end(0)
    expect(notebook.output(0).last).to_contain_text("KeyboardInterrupt")
    expect(notebook.run(1)).to_have_text("7\n")


def test_restart_ends_a_cell_and_forgets_what_it_made(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("made = 7\nprint('looping')\nwhile True: pass", "made")
    notebook.start(0)
    expect(notebook.output(0).first).to_contain_text("looping", timeout=KERNEL)
    notebook.command("00")
    notebook.accept()
    notebook.wait_for_status("Idle")
    expect(notebook.run(1)).to_contain_text("NameError: name 'made' is not defined")


def test_completion_offers_what_the_kernel_knows(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("an_unusual_name = 1\nan_unusual_number = 2", "print(an_unu")
    notebook.run(0)
    notebook.cell(1).locator(".cm-content").click()
    notebook.page.keyboard.press("End")
    completer = notebook.page.locator(".jp-Completer")

    def offered() -> bool:
        # JupyterLab drops an answer that takes a second, as a kernel's first may; a person asks again, when
        # the kernel has done with that one.
        notebook.page.keyboard.press("Tab")
        with contextlib.suppress(PlaywrightTimeoutError):
            completer.wait_for(timeout=3000)
        return completer.is_visible()

    wait_until(offered, "completions are shown", KERNEL / 1000)
    expect(completer).to_contain_text("an_unusual_name")
    expect(completer).to_contain_text("an_unusual_number")
    picture(notebook.page, "completion")


def test_two_notebooks_at_once_have_kernels_of_their_own(open_notebook: OpenNotebook) -> None:
    sources = ("import os\nmark = '{}'\nopen('mark', 'x').write(mark)", "print(mark, open('mark').read())")
    first = open_notebook(sources[0].format("first"), sources[1])
    second = open_notebook(sources[0].format("second"), sources[1])
    first.start(0)
    second.start(0)
    first.wait_for_end(0)
    second.wait_for_end(0)
    expect(first.run(1)).to_have_text("first first\n")
    expect(second.run(1)).to_have_text("second second\n")


def test_a_reload_finds_its_kernel(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("made = 7", "print(made)")
    notebook.run(0)
    before = notebook.kernel_id()
    notebook.visit()
    expect(notebook.run(1)).to_have_text("7\n")
    assert notebook.kernel_id() == before


def test_a_cell_runs_to_its_end_while_the_page_is_loaded_again(open_notebook: OpenNotebook) -> None:
    # What it prints meanwhile is not shown: to JupyterLab, a page that was loaded again has run no cell.
    notebook = open_notebook(
        "import time\nprint('begun')\ntime.sleep(5)\nended = time.time()", "print(ended)"
    )
    notebook.start(0)
    expect(notebook.output(0).first).to_contain_text("begun", timeout=KERNEL)
    left = time.time()
    notebook.visit()
    notebook.run(1)
    assert float(notebook.output(1).inner_text()) > left


def test_a_kernel_that_dies_ends_its_cell_and_says_so(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("import os\nos._exit(3)", "print('alive')")
    notebook.start(0)
    expect(notebook.output(0)).to_have_text("The kernel ended with exit code 3.\n", timeout=KERNEL)
    dialog = notebook.page.locator(".jp-Dialog")
    expect(dialog).to_contain_text("appears to have died. It will restart automatically.")
    picture(notebook.page, "a-kernel-that-died")
    notebook.accept()
    expect(notebook.prompt(0)).to_have_text("[ ]:")
    notebook.wait_for_status("Idle")
    expect(notebook.run(1)).to_have_text("alive\n")


def test_a_kernel_that_takes_too_much_memory_ends_its_cell_and_says_so(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook("taken = [bytearray(1 << 24) for _ in range(1000)]", "print('alive')")
    notebook.start(0)
    expect(notebook.output(0)).to_contain_text(re.compile("memory", re.IGNORECASE), timeout=KERNEL)
    picture(notebook.page, "out-of-memory")


def test_a_slider_moves_on_both_sides(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(
        "import ipywidgets as widgets\nslider = widgets.IntSlider(value=3, max=10)\nslider",
        "print(slider.value)",
        "slider.value = 8",
    )
    shown = notebook.run(0).locator(".widget-readout")
    expect(shown).to_have_text("3")
    handle = notebook.output(0).locator(".noUi-handle")
    handle.focus()
    handle.press("ArrowRight")
    expect(shown).to_have_text("4")
    expect(notebook.run(1)).to_have_text("4\n")
    notebook.run(2)
    expect(shown).to_have_text("8")


#: A widget of the page's own making, by anywidget's protocol in two lines of JavaScript is not to be had
#: without its package; a file upload is ipywidgets' own message with a buffer from the page.
BINARY = """
import ipywidgets as widgets, io, matplotlib.image, numpy
def png(red, size):
    file = io.BytesIO()
    matplotlib.image.imsave(file, numpy.full((size, size, 3), (red, 0, 0), dtype='uint8'), format='png')
    return file.getvalue()
image = widgets.Image(value=png(255, 40))
upload = widgets.FileUpload(accept='')
widgets.VBox([image, upload])
"""


def test_buffers_cross_in_both_directions(open_notebook: OpenNotebook) -> None:
    notebook = open_notebook(
        BINARY,
        "image.value = png(128, 60)",
        "import hashlib\nfile = upload.value[0]\nprint(file.name, hashlib.sha256(file.content).hexdigest())",
    )
    shown = notebook.run(0).locator("img.widget-image")
    _wait_for_width(shown, 40)
    notebook.run(1)
    _wait_for_width(shown, 60)
    content = bytes(range(256)) * 40
    with notebook.page.expect_file_chooser() as chooser:
        notebook.output(0).locator("button.widget-upload").click()
    chooser.value.set_files({"name": "bytes.bin", "mimeType": "application/octet-stream", "buffer": content})
    expect(notebook.output(0).locator("button.widget-upload")).to_have_text(re.compile(r"\(1\)"))
    expect(notebook.run(2)).to_have_text(f"bytes.bin {hashlib.sha256(content).hexdigest()}\n")


def _wait_for_width(image: Locator, width: int) -> None:
    wait_until(
        lambda: image.evaluate("image => image.complete && image.naturalWidth") == width, f"{width} px"
    )
