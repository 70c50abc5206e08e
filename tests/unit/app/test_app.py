"""`jupyter gateway` as a person meets it: how it starts, what it says, and how it ends.

The backend is a harmless one of another distribution; sandboxes are tests/integration's.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateways import ROOT, GatewayProgram, bare_environment, call, fetch, gateway_command

ENTRY_POINTS = """[jupyter_sandbox_gateway.backends]
harmless = tests.support.harmless_backend:HarmlessBackend
broken = tests.support.no_such_module:Backend
nothing = tests.support.harmless_backend:Check
"""

Start = Callable[..., GatewayProgram]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with a distribution that brings backends."""
    metadata = tmp_path / "site" / "harmless-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: harmless\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return bare_environment(tmp_path, PYTHONPATH=f"{tmp_path / 'site'}:{ROOT}")


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    started = []

    def start_one(*options: str, backend: str = "harmless", port: int = 0, **more: str) -> GatewayProgram:
        command = gateway_command(f"--port={port}", f"--backend={backend}", *options)
        started.append(GatewayProgram(command, {**environment, **more}, tmp_path))
        return started[-1]

    yield start_one
    for program in started:
        program.close()


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run_it(*options: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = gateway_command(*options)
        return subprocess.run(
            command, env={**environment, **more}, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    return run_it


# -- the start ----------------------------------------------------------------------------------------


def test_it_says_where_it_is_and_lets_in_who_has_the_random_token(start: Start) -> None:
    program = start()
    url = program.url()
    token = program.wait_for(r"^Token: (\w{48})$")[1]
    assert call(f"{url}api/kernels", token) == (200, [])
    assert call(f"{url}api/kernels", "wrong")[0] == 403
    assert url.startswith("http://127.0.0.1:")


def test_a_token_that_was_chosen_is_not_printed(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("chosen-secret\n")
    for program in (
        start("--token=chosen-secret"),
        start(f"--token-file={tmp_path / 'token'}"),
        start(**{"JUPYTER_GATEWAY_TOKEN": "chosen-secret"}),
    ):
        assert call(f"{program.url()}api/kernels", "chosen-secret")[0] == 200
        assert program.end() == 0
        assert "chosen-secret" not in program.text
        assert "YOUR-TOKEN" in program.text


def test_without_a_token_it_serves_on_loopback_and_says_so(start: Start) -> None:
    program = start("--token=")
    assert call(f"{program.url()}api/kernels")[0] == 200
    program.wait_for("There is no authentication")


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", ""])  # noqa: S104  # they are refused
def test_without_a_token_it_does_not_listen_beyond_loopback(start: Start, ip: str) -> None:
    program = start("--token=", f"--ip={ip}")
    assert program.wait() == 1
    assert "anyone who can reach" in program.text
    assert "--token-file" in program.text


def test_a_token_file_does_not_yield_to_an_empty_token_in_the_configuration(
    start: Start, tmp_path: Path
) -> None:
    config = tmp_path / "config" / "jupyter_gateway_config.py"
    config.parent.mkdir()
    config.write_text("c.JupyterGateway.token = ''")
    (tmp_path / "token").write_text("chosen-secret\n")
    for program in (
        start(f"--token-file={tmp_path / 'token'}"),
        start(**{"JUPYTER_GATEWAY_TOKEN": "chosen-secret"}),
    ):
        assert program.wait() == 1
        assert "The token is given more than once" in program.text


def test_a_port_in_use_is_passed_over_and_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(port=port)
        found = program.wait_for(rf"^Port {port} is in use; this is port (\d+)\.$")[1]
        assert program.url() == f"http://127.0.0.1:{found}/"


def test_everything_is_below_the_base_url(start: Start) -> None:
    program = start("--base-url=/some/where", "--token=test-token")
    url = program.url()
    assert url.endswith("/some/where/")
    assert call(f"{url}api/kernels", "test-token")[0] == 200
    assert call(f"{url.removesuffix('some/where/')}api/kernels", "test-token")[0] == 404


def test_metrics_may_have_an_open_address_of_their_own(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = start("--token=test-token", f"--WebOptions.metrics_port={port}")
    url = program.url()
    status, text = fetch(f"http://127.0.0.1:{port}/metrics")
    assert status == 200
    assert "jupyter_gateway_kernels" in text
    assert call(f"http://127.0.0.1:{port}/api/kernels", "test-token")[0] == 404
    assert call(f"{url}metrics")[0] == 403


def test_only_a_listed_proxy_is_believed(start: Start) -> None:
    listed = start("--token=test-token", "--trust-xheaders=127.0.0.1", "--json-logs")
    unlisted = start("--token=test-token", "--trust-xheaders=192.0.2.0/24", "--json-logs")
    for program, seen in ((listed, "203.0.113.9"), (unlisted, "127.0.0.1")):
        assert (
            call(f"{program.url()}api/kernels", "test-token", headers={"X-Forwarded-For": "203.0.113.9"})[0]
            == 200
        )
        assert program.end() == 0
        assert seen in program.text
        assert ("203.0.113.9" in program.text) == (program is listed)


# Options, and the sentence in which each wrong one is told.
WRONG = {
    "a number that is none": (("--Kernels.max_kernels=abc",), "max_kernels.*expected an int"),
    "a number out of its range": (("--Kernels.cull_interval=-5",), "cull_interval must be above 0, not -5"),
    "a network that is none": (("--trust-xheaders=foo",), "trusted_proxies takes addresses and networks"),
    "a port that is none": (("--WebOptions.metrics_port=65536",), "metrics_port.*greater than 65535"),
    "an address that is none": (("--ip=a..b",), r"There is no address 'a\.\.b'"),
    "a setting of the kernelspecs": (
        ("--KernelSpecManager.ensure_native_kernel=maybe",),
        "ensure_native_kernel.*expected a boolean",
    ),
    "a setting of the backend": (
        ("--backend=bubblewrap", "--BubblewrapBackend.memory=abc"),
        "expected a number of bytes or a text such as",
    ),
    "a setting that only the doctor reads": (
        ("doctor", "--backend=bubblewrap", "--BubblewrapBackend.memory=abc"),
        "expected a number of bytes or a text such as",
    ),
    "a backend that there is not, shown": (("--backend=nope", "--show-config"), "There is no backend 'nope'"),
}


@pytest.mark.parametrize(("options", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_told_in_a_sentence_before_anything_is_begun(
    run: Callable[..., subprocess.CompletedProcess[str]], options: tuple[str, ...], sentence: str
) -> None:
    if not any(option.startswith(("doctor", "--backend")) for option in options):
        options = ("--port=0", "--backend=harmless", *options)
    result = run(*options)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert re.search(sentence, line)


@pytest.mark.parametrize("name", ["JUPYTER_DATA_DIR", "HOME"])
def test_an_account_that_cannot_have_a_scratch_folder_gets_a_sentence_in_the_place_of_the_line(
    start: Start, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("no folder can be made below")
    program = start(**{"JUPYTER_DATA_DIR": "", name: f"{tmp_path}/file/folder"})
    program.wait_for(rf"^There is no line for JupyterLab: .* {tmp_path}/file/folder/\S+ cannot be made")
    program.wait_for("^  curl")
    assert "/jupyter lab" not in program.text


# -- TLS ----------------------------------------------------------------------------------------------


def test_with_a_certificate_it_speaks_tls_only(start: Start, certificate: Path) -> None:
    program = start("--token=test-token", f"--certfile={certificate}")
    url = program.url()
    assert url.startswith("https://")
    assert (
        call(f"{url}api/kernels", "test-token", context=ssl.create_default_context(cafile=str(certificate)))[
            0
        ]
        == 200
    )
    with pytest.raises(OSError, match=r"closed|reset|Remote end"):
        call(f"http{url.removeprefix('https')}api/kernels", "test-token")


def test_with_a_client_ca_only_its_clients_get_a_connection(start: Start, certificate: Path) -> None:
    program = start("--token=", "--ip=127.0.0.1", f"--certfile={certificate}", f"--client-ca={certificate}")
    url = program.url()
    stranger = ssl.create_default_context(cafile=str(certificate))
    with pytest.raises(OSError, match=r"(?i)certificate required|reset|closed|EOF"):
        call(f"{url}api/kernels", context=stranger)
    known = ssl.create_default_context(cafile=str(certificate))
    known.load_cert_chain(certificate)
    assert call(f"{url}api/kernels", context=known)[0] == 200


@pytest.mark.parametrize("ip", ["0.0.0.0", ""])  # noqa: S104  # what is tested
def test_with_a_client_ca_it_listens_beyond_loopback_without_a_token(
    start: Start, certificate: Path, ip: str
) -> None:
    tls = [f"--certfile={certificate}", f"--client-ca={certificate}"]
    program = start("--token=", f"--ip={ip}", *tls)
    known = ssl.create_default_context(cafile=str(certificate))
    known.load_cert_chain(certificate)
    url = program.url()
    assert call(f"{url}api/kernels", context=known)[0] == 200
    stranger = ssl.create_default_context(cafile=str(certificate))
    with pytest.raises(OSError, match=r"(?i)certificate required|reset|closed|EOF"):
        call(f"{url}api/kernels", context=stranger)


def test_a_certificate_alone_lets_nobody_in_beyond_loopback(start: Start, certificate: Path) -> None:
    program = start("--token=", "--ip=0.0.0.0", f"--certfile={certificate}")
    assert program.wait() == 1
    assert "anyone who can reach" in program.text


# -- backends -----------------------------------------------------------------------------------------


def test_an_unknown_backend_is_an_error_that_names_those_there_are(start: Start) -> None:
    program = start(backend="bubblewarp")
    assert program.wait() == 1
    assert (
        "There is no backend 'bubblewarp'; there are: bubblewrap, harmless, kubernetes. Did you mean"
        in program.text
    )


@pytest.mark.parametrize(
    ("backend", "why"), [("broken", "no_such_module"), ("nothing", "is not a class with")]
)
def test_a_backend_that_cannot_be_loaded_stops_who_asks_for_it(start: Start, backend: str, why: str) -> None:
    program = start(backend=backend)
    assert program.wait() == 1
    assert f"The backend '{backend}' cannot be loaded" in program.text
    assert why in program.text


def test_a_machine_that_cannot_isolate_gets_no_gateway(start: Start) -> None:
    program = start("--HarmlessBackend.trouble=There is no wall here.")
    assert program.wait() == 1
    assert "There is no wall here." in program.text
    assert "URL:" not in program.text
    assert "closed" in program.text


def test_the_log_says_how_each_limit_is_kept(start: Start) -> None:
    program = start()
    program.wait_for(r"memory +1 GiB +by goodwill \(best effort\)")
    program.wait_for(r"processes +64 +by a cgroup$")


# -- the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_status_0(start: Start, number: signal.Signals) -> None:
    program = start()
    program.wait_for("curl")
    assert program.end(number) == 0
    assert "closed" in program.text


def test_a_signal_during_the_start_ends_it_with_status_0(start: Start) -> None:
    program = start("--HarmlessBackend.start_seconds=100")
    program.wait_for("starting")
    assert program.end() == 0
    assert "closed" in program.text
    assert "URL:" not in program.text


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    program = start("--HarmlessBackend.close_seconds=100")
    program.wait_for("curl")
    program.process.send_signal(signal.SIGTERM)
    program.wait_for("closing")
    assert program.end() == -signal.SIGTERM


# -- logs, help and configuration -----------------------------------------------------------------------


def test_no_line_but_the_announcement_holds_the_token(start: Start) -> None:
    program = start("--debug")
    url = program.url()
    token = program.wait_for(r"^Token: (\w+)$")[1]
    assert call(f"{url}api/kernels?token={token}")[0] == 200
    assert call(f"{url}nothing/{token}", token)[0] == 404
    assert program.end() == 0
    for line in program.output:
        assert token not in line or re.match(r"Token: |  curl |  JUPYTER_GATEWAY_AUTH_TOKEN=", line)


@pytest.mark.parametrize("command", [(), ("doctor",)], ids=["gateway", "doctor"])
@pytest.mark.parametrize("in_a_file", [False, True], ids=["an option", "a file"])
def test_no_configuration_that_is_shown_or_logged_holds_the_token(
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    in_a_file: bool,
    command: tuple[str, ...],
) -> None:
    config = tmp_path / "config.py"
    setting = "c.JupyterGateway.token = 'chosen-secret'\n" if in_a_file else ""
    options = ["--backend=harmless", f"--config={config}"]
    if not in_a_file:
        options.append("--JupyterGateway.token=chosen-secret")
    config.write_text(setting)
    shown = {
        "--show-config": run(*command, *options, "--show-config").stdout,
        "--show-config-json": run(*command, *options, "--show-config-json").stdout,
    }
    # What is wrong in the file has traitlets log the whole configuration.
    config.write_text(f"{setting}c.JupyterGateway.prot = 1\n")
    shown["--debug"] = run(*command, *options, "--debug").stderr
    for name, text in shown.items():
        assert "harmless" in text, name
        assert "chosen-secret" not in text, name
        assert "(hidden)" in text, name


def test_json_logs_are_one_object_a_line(start: Start) -> None:
    program = start("--json-logs", "--token=test-token")
    call(f"{program.url()}api/kernels", "test-token")
    assert program.end() == 0
    entries = [json.loads(line) for line in program.output if line.startswith("{")]
    assert any(entry.get("logger") == "gateway.access" for entry in entries)
    assert any("stopping" in entry["message"] for entry in entries)


def test_help_all_lists_every_part_that_can_be_configured(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    text = run("--help-all").stdout
    for name in ("JupyterGateway.drain_grace", "WebOptions.allow_origin", "Kernels.max_kernels"):
        assert f"--{name}=" in text
    assert "--HarmlessBackend.trouble=" in text


def test_a_generated_file_is_read_again_and_changes_nothing(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, start: Start
) -> None:
    assert run("--generate-config").returncode == 0
    file = tmp_path / "config" / "jupyter_gateway_config.py"
    assert "# c.Kernels.max_kernels = 0" in file.read_text()
    file.write_text(file.read_text() + "\nc.JupyterGateway.base_url = '/from/file'\n")
    assert start().url().endswith("/from/file/")


def test_show_config_says_what_is_set_and_how_each_limit_is_kept(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    text = run("--backend=harmless", "--port=9999", "--show-config").stdout
    assert ".port = 9999" in text
    assert "by goodwill (best effort)" in text


# -- doctor -------------------------------------------------------------------------------------------


def test_the_doctor_prints_a_table_with_remedies(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    well = run("doctor", "--backend=harmless")
    assert well.returncode == 0
    assert re.search(r"^ok +ground +firm$", well.stdout, re.MULTILINE)
    assert "Move house." not in well.stdout
    ill = run("doctor", "--backend=harmless", "--HarmlessBackend.trouble=quakes")
    assert ill.returncode == 1
    assert re.search(r"^FAILED +ground +quakes\n +-> Move house\.$", ill.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "ok", "status"),
    [
        ((), True, 0),
        (("--HarmlessBackend.trouble=quakes",), False, 1),
        (("--HarmlessBackend.unsure=True",), None, 2),
    ],
)
def test_the_doctor_speaks_json_to_scripts(
    run: Callable[..., subprocess.CompletedProcess[str]],
    options: tuple[str, ...],
    ok: bool | None,
    status: int,
) -> None:
    result = run("doctor", "--backend=harmless", "--json", *options)
    answer = json.loads(result.stdout)
    assert result.returncode == status
    assert answer["ok"] is ok
    assert [check["name"] for check in answer["checks"]] == ["air", "ground"]
    assert answer["limits"][0]["best_effort"] is True


def test_the_doctor_refuses_what_it_does_not_know(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    result = run("doctor", "--jsno")
    assert result.returncode == 1
    assert "Did you mean --json?" in result.stderr
