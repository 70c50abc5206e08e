"""A real kernel in a real sandbox, from its start to its end, as its clients are told."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.integration.kernels.client import Client, becomes, started

pytestmark = pytest.mark.gen_test(timeout=120)


async def test_a_cell_that_is_sent_before_the_kernel_is_there_runs(kernels):
    kernel = kernels.create("python", {}, "someone")
    told = await Client(kernel).run("print(6 * 7)")
    assert told.text == "42\n"


async def test_files_survive_a_restart_and_variables_do_not(kernels):
    kernel = await started(kernels)
    client = Client(kernel)
    await client.run("x = 1; open('kept.txt', 'w').write('kept')")
    await kernel.restart()
    told = await client.run("print(open('kept.txt').read(), 'x' in globals())")
    assert told.text == "kept False\n"


DEATHS = {
    "it ends itself": ("import os; os._exit(3)", "3"),
    "it is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "it crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "it aborts": ("import os; os.abort()", "SIGABRT"),
}


@pytest.mark.parametrize(("code", "named"), DEATHS.values(), ids=DEATHS.keys())
async def test_a_kernel_that_dies_in_a_cell_ends_the_cell_with_the_reason_and_comes_back(
    kernels, code, named
):
    kernel = await started(kernels)
    client, other = Client(kernel), Client(kernel)
    told = await client.run(code)
    assert named in told.text
    assert told.error == "KernelDied"
    await becomes(kernel, "idle", "busy")
    assert (await other.run("print('back')")).text == "back\n"


async def test_every_request_that_waits_is_ended_when_the_kernel_dies(kernels):
    kernel = await started(kernels)
    client, other = Client(kernel), Client(kernel)
    first = await client.begin("import os, time; time.sleep(1); os._exit(1)")
    second = await client.begin("print('never')")
    third = await other.begin("print('never')")
    for who, msg_id in ((client, first), (client, second), (other, third)):
        told = await who.end(msg_id)
        assert told.error == "KernelDied"
        assert "never" not in told.text


async def test_a_kernel_that_uses_up_its_memory_says_so(kernels):
    kernel = await started(kernels, "small")
    told = await Client(kernel).run("x = bytearray(2_000_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1")
    assert "memory" in told.text.lower() or told.error == "MemoryError"


INTERRUPTED = {
    "a Python loop": "while True: pass",
    "a sleep": "import time; time.sleep(60)",
    "a subprocess": "import subprocess; subprocess.run(['sleep', '60'], check=True)",
    "an endless flood of output": "while True: print('x' * 1000)",
}


@pytest.mark.parametrize("code", INTERRUPTED.values(), ids=INTERRUPTED.keys())
async def test_an_interrupt_ends(kernels, code):
    kernel = await started(kernels)
    client = Client(kernel)
    msg_id = await client.begin("print('begun', flush=True)\n" + code)
    await client.until(lambda: "begun" in client.told[msg_id].text)
    await kernel.interrupt()
    assert (await client.end(msg_id)).error in ("KeyboardInterrupt", "CalledProcessError")
    assert (await client.run("print('fine')")).text == "fine\n"


async def test_an_interrupt_ends_an_input(kernels):
    kernel = await started(kernels)
    client = Client(kernel)
    msg_id = await client.begin("input('name? ')")
    await client.asked()
    await kernel.interrupt()
    assert (await client.end(msg_id)).error == "KeyboardInterrupt"


async def test_twenty_starts_at_once_never_see_each_others_environment(kernels):
    values = [f"value-{number}" for number in range(20)]
    made = [kernels.create("python", {"WHO": value}, "someone") for value in values]
    clients = [Client(kernel) for kernel in made]
    told = await asyncio.gather(
        *(
            client.run("import os; print(sorted(v for v in os.environ.values() if v.startswith('value-')))")
            for client in clients
        )
    )
    assert [each.text for each in told] == [f"['{value}']\n" for value in values]


async def test_a_kernel_whose_interpreter_is_missing_says_so(kernels, specs_folder):
    spec = {"argv": ["/usr/bin/no-such-python", "{connection_file}"], "display_name": "x", "language": "x"}
    (specs_folder / "missing").mkdir()
    (specs_folder / "missing" / "kernel.json").write_text(json.dumps(spec))
    kernel = kernels.create("missing", {}, "someone")
    await kernel.wait_ready()
    assert kernel.execution_state == "dead"
    assert "/usr/bin/no-such-python" in str(kernel.reason)


async def test_a_kernel_that_exits_at_its_start_gives_its_last_lines(kernels, specs_folder):
    argv = ["/bin/sh", "-c", "echo 'the library is broken' >&2; exit 7"]
    spec = {"argv": argv, "display_name": "x", "language": "x"}
    (specs_folder / "broken").mkdir()
    (specs_folder / "broken" / "kernel.json").write_text(json.dumps(spec))
    kernel = kernels.create("broken", {}, "someone")
    await kernel.wait_ready()
    assert kernel.execution_state == "dead"
    assert "the library is broken" in str(kernel.reason)


async def test_a_client_that_comes_back_gets_what_it_missed_once(kernels):
    kernel = await started(kernels)
    client = Client(kernel)
    msg_id = await client.begin("import time\nfor i in range(20): print(i, flush=True); time.sleep(0.1)")
    await client.until(lambda: "3\n" in client.told[msg_id].text)
    client.attachment.detach()
    await asyncio.sleep(0.5)
    client.attachment = kernel.attach(client.attachment.session_id)
    told = await client.end(msg_id)
    assert told.text == "".join(f"{i}\n" for i in range(20))
