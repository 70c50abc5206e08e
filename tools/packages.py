"""What this site has set for pip to reach packages, and the same in uv's words.

Sites describe their mirrors, proxies and certificates to pip, as everybody knows it; uv reads none of that.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterable, Mapping
from pathlib import Path

#: Where pip keeps the settings of a machine and of an account, the former first.
PIP_FILES = (Path("/etc/pip.conf"), Path.home() / ".pip/pip.conf", Path.home() / ".config/pip/pip.conf")

#: pip's setting -> uv's variables (its reference, "Environment variables"), and what separates values there.
_OF_UV = {
    "index-url": (("UV_DEFAULT_INDEX",), " "),
    "extra-index-url": (("UV_INDEX",), " "),
    "find-links": (("UV_FIND_LINKS",), ","),
    "no-index": (("UV_NO_INDEX",), " "),
    "trusted-host": (("UV_INSECURE_HOST",), " "),
    "proxy": (("HTTP_PROXY", "HTTPS_PROXY"), " "),
    "cert": (("SSL_CERT_FILE",), " "),
    "default-timeout": (("UV_HTTP_TIMEOUT",), " "),
    "timeout": (("UV_HTTP_TIMEOUT",), " "),
    "retries": (("UV_HTTP_RETRIES",), " "),
}

#: What pip needs to know of a site wherever it runs: all but what names places of this machine.
_EVERYWHERE = tuple(name for name in _OF_UV if name not in ("find-links", "no-index"))


def pip_settings(
    environment: Mapping[str, str], files: Iterable[Path], names: Iterable[str] = _EVERYWHERE
) -> dict[str, str]:
    """What pip is told here by the environment, else by files, of these settings."""
    parser = configparser.RawConfigParser()
    parser.read([*files, *filter(None, [environment.get("PIP_CONFIG_FILE")])])
    found = {}
    for name in names:
        for section in ("global", "install"):
            if parser.has_option(section, name):
                found[name] = parser.get(section, name)
        if value := environment.get("PIP_" + name.upper().replace("-", "_")):
            found[name] = value
    return found


def for_uv(environment: Mapping[str, str], files: Iterable[Path] = PIP_FILES) -> dict[str, str]:
    """`environment` with pip's settings as uv knows them, where it does not say other ones to uv itself."""
    wanted = {
        # As for pip: interpreters and authorities are the machine's, and no index hides another.
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    for name, value in pip_settings(environment, files, _OF_UV).items():
        variables, separator = _OF_UV[name]
        wanted |= dict.fromkeys(variables, separator.join(value.split()))
    own = {name: value for name, value in environment.items() if name.startswith("UV_")}
    return {**environment, **wanted, **own}
