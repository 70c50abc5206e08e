"""What a site has set for pip reaches the builds of images, and uv."""

from __future__ import annotations

from pathlib import Path

from tools import packages

SETTINGS = """[global]
index-url = https://of.the.file/
find-links =
    /wheels
    https://more.of.them/
[install]
timeout = 5
no-deps = 1
"""


def test_pip_is_told_of_the_site_what_it_needs_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(SETTINGS)
    environment = {"PIP_INDEX_URL": "https://of.the.environment/", "PIP_CERT": "/ca", "PIP_TARGET": "/x"}
    assert packages.pip_settings({}, [file]) == {"index-url": "https://of.the.file/", "timeout": "5"}
    assert packages.pip_settings(environment, [file, tmp_path / "none"]) == {
        "index-url": "https://of.the.environment/",
        "timeout": "5",
        "cert": "/ca",
    }


def test_the_file_that_the_environment_names_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.conf"
    file.write_text(SETTINGS)
    found = packages.pip_settings({"PIP_CONFIG_FILE": str(file)}, [])
    assert found == {"index-url": "https://of.the.file/", "timeout": "5"}


def test_uv_is_told_the_same_in_its_own_words(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(SETTINGS)
    environment = {"PIP_CERT": "/ca", "PIP_PROXY": "http://proxy:1", "HOME": "/home/me"}
    told = packages.for_uv(environment, [file])
    assert environment.items() <= told.items()
    assert told["UV_DEFAULT_INDEX"] == "https://of.the.file/"
    assert told["UV_FIND_LINKS"] == "/wheels,https://more.of.them/"
    assert told["UV_HTTP_TIMEOUT"] == "5"
    assert told["SSL_CERT_FILE"] == "/ca"
    assert told["HTTPS_PROXY"] == told["HTTP_PROXY"] == "http://proxy:1"
    assert "UV_INDEX" not in told


def test_what_is_said_to_uv_itself_counts(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(SETTINGS)
    told = packages.for_uv({"UV_DEFAULT_INDEX": "https://of.uv/"}, [file])
    assert told["UV_DEFAULT_INDEX"] == "https://of.uv/"
