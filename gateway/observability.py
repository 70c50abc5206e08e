"""What an operator sees: metrics, and logs that say which request and kernel a line belongs to.

Metrics live in a registry of their own, passed to whoever counts; nothing is registered globally, so
two gateways in one process do not mix. Names start with `jupyter_gateway_` and units are
Prometheus' (seconds, bytes). A label takes its values from a fixed or configured set, never from what a
client sends, or a client could fill the memory with series.

A log line carries the request's and the kernel's id where there are such; `bind` sets them for the
current task and those that it starts. On a terminal a line is plain; `as_json` makes every line one JSON
object. Credentials are taken out of the finished line, wherever in it they are, tracebacks included.

What a message repeats may come from a client or from a hostile kernel. So a record is one line whatever is
in it, with control characters escaped, and the lines of a traceback below it are indented: no part of one can
pass for a record.
"""

from __future__ import annotations

import contextvars
import datetime
import json
import logging
import re
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO
from urllib.parse import quote

import prometheus_client
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
_KERNEL: contextvars.ContextVar[str] = contextvars.ContextVar("kernel_id", default="")

#: What stands in a log where a credential was.
REDACTED = "[redacted]"

#: In a URI a credential goes on to the end of its part (RFC 3986, 3.3 and 3.4), past quotes, which a token
#: may have. The name of a parameter may be percent-encoded, and is the same name then.
_TOKEN = "".join(f"(?:{letter}|%{ord(letter):x}|%{ord(letter.upper()):x})" for letter in "token")
_IN_URI_QUERY = re.compile(rf"(?i)([?&;]{_TOKEN}=)[^&#\s]+")
_IN_URI_PATH = re.compile(r"(/t/)[^/?#\s]+")

#: In text a URI may stand in quotes. `<token>` is how our own messages show a user where theirs goes.
_IN_QUERY = re.compile(r"(?i)((?:^|[?&;\s\"'])token=)(?!<token>)[^&;#\s\"']+")
_IN_PATH = re.compile(r"(/t/)(?!<token>)[^/?#\s\"']+")
_IN_HEADER = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:token|bearer)\s+)(?!<token>)[^\s'\"]+")

#: Seconds. A kernel starts within one on a warm machine and within minutes on a cold cluster.
_START_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
#: Seconds. Most requests take a millisecond; a POST waits up to ten seconds for its kernel.
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)

#: Every state a kernel may be in, so that each has a value also where no kernel is in it.
_STATES = ("starting", "idle", "busy", "restarting", "autorestarting", "dead")


def bind(*, request_id: str | None = None, kernel_id: str | None = None) -> None:
    """Have the log lines of this task, and of tasks that it starts from now on, carry these ids."""
    if request_id is not None:
        _REQUEST.set(request_id)
    if kernel_id is not None:
        _KERNEL.set(kernel_id)


def redact_uri(uri: str) -> str:
    """`uri`, a request's target as it came, without the credentials that it may carry.

    They are replaced, known or not: a token that was mistyped is a good guess at the right one.
    """
    return _IN_URI_PATH.sub(rf"\1{REDACTED}", _IN_URI_QUERY.sub(rf"\1{REDACTED}", uri))


def redact(text: str) -> str:
    """`text` (a log line) without the credentials that a URL or a header in it may carry.

    What follows `token=`, `/t/` and `Authorization: <scheme>` is replaced as in `redact_uri`, up to a quote.
    """
    text = _IN_QUERY.sub(rf"\1{REDACTED}", text)
    text = _IN_PATH.sub(rf"\1{REDACTED}", text)
    return _IN_HEADER.sub(rf"\1{REDACTED}", text)


class Metrics:
    """The gateway's figures. `registry` is its own unless one is given."""

    def __init__(self, registry: prometheus_client.CollectorRegistry | None = None) -> None:
        # auto_describe: two collectors of one name are an error here, not in the scraper.
        self.registry = registry or prometheus_client.CollectorRegistry(auto_describe=True)
        self.kernel_starts = prometheus_client.Counter(
            "jupyter_gateway_kernel_starts",
            "Kernels that clients asked for, by kernelspec.",
            ["kernelspec"],
            registry=self.registry,
        )
        self.kernel_start_seconds = prometheus_client.Histogram(
            "jupyter_gateway_kernel_start_duration_seconds",
            "Time from the request of a kernel until it was ready.",
            ["kernelspec"],
            buckets=_START_BUCKETS,
            registry=self.registry,
        )
        self.kernel_failures = prometheus_client.Counter(
            "jupyter_gateway_kernel_start_failures",
            "Kernels that were refused or did not become ready, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.websocket_messages = prometheus_client.Counter(
            "jupyter_gateway_websocket_messages",
            "Kernel messages on websockets, by direction (in: from a client, out: to a client).",
            ["direction"],
            registry=self.registry,
        )
        self.websocket_bytes = prometheus_client.Counter(
            "jupyter_gateway_websocket_bytes",
            "Bytes of those messages.",
            ["direction"],
            registry=self.registry,
        )
        self.dropped_env_names = prometheus_client.Counter(
            "jupyter_gateway_dropped_env_names",
            "Environment variables in requests that may not be passed to a kernel and were left out.",
            registry=self.registry,
        )
        self.request_seconds = prometheus_client.Histogram(
            "jupyter_gateway_http_request_duration_seconds",
            "Time that a request took, by route, method and status.",
            ["route", "method", "status"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )

    def watch_kernels(self, states: Callable[[], Iterable[str]]) -> None:
        """Have the gauge of kernels by state follow `states`, asked once per scrape."""
        self.registry.register(_KernelStates(states))

    def text(self) -> bytes:
        """The figures in Prometheus' text format 0.0.4; `CONTENT_TYPE` names it."""
        return prometheus_client.generate_latest(self.registry)


#: The media type of `Metrics.text`.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _KernelStates(Collector):
    def __init__(self, states: Callable[[], Iterable[str]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        tally = Tally(self._states())
        gauge = GaugeMetricFamily("jupyter_gateway_kernels", "Kernels by state.", labels=["state"])
        for state in _STATES:
            gauge.add_metric([state], tally[state])
        yield gauge

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily("jupyter_gateway_kernels", "Kernels by state.", labels=["state"])]


def configure_logging(
    stream: TextIO, level: int = logging.INFO, *, as_json: bool = False, secrets: Iterable[str] = ()
) -> None:
    """Send the log of the whole process to `stream`, in one of the two formats.

    `secrets` never appear in a line, not as they are and not percent-encoded.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(secrets) if as_json else PlainFormatter(secrets))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


class _Redactor:
    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = [form for secret in secrets if secret for form in {secret, quote(secret, safe="")}]

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return redact(text)


class PlainFormatter(logging.Formatter):
    """`<time> <level> <logger> <message> [request=.. kernel=..]`, for a reader."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s  %(message)s")
        self._redact = _Redactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name for it
        line = _printable(super().formatMessage(record))
        ids = " ".join(f"{name}={value}" for name, value in _ids().items())
        return f"{line} [{ids}]" if ids else line

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name for it
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802  # logging's name for it
        return _indented(super().formatStack(stack_info))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, ids, and what `extra={"fields": {...}}` adds."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._redact = _Redactor(secrets)

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._redact(record.getMessage()),
            **_ids(),
        }
        fields = getattr(record, "fields", {})
        entry |= {name: self._redact(v) if isinstance(v, str) else v for name, v in fields.items()}
        if record.exc_info:
            entry["traceback"] = self._redact(self.formatException(record.exc_info))
        return json.dumps(entry)


def _printable(text: str) -> str:
    """`text` in one line, with all that moves a terminal's cursor or hides itself as an escape sequence."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _indented(text: str) -> str:
    return "\n".join("    " + _printable(line) for line in text.split("\n"))


def _ids() -> dict[str, str]:
    ids = {"request": _REQUEST.get(), "kernel": _KERNEL.get()}
    return {name: value for name, value in ids.items() if value}
