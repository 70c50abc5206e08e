"""The API server, as the `kubernetes` package reaches it: configuration, credentials, requests.

The package loads what a kubeconfig or a pod's service account says, exec plugins included, and its asyncio
half sends the requests; objects are plain dicts as they stand in the API. It is imported here and late: it
takes 0.7 s and 54 MB, which only this backend's users should pay.

Credentials are loaded again before they are `_RENEW` seconds old, so that a token file that rotates, a plugin
whose token expires, and a client certificate that is replaced, are all followed in one way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import ssl
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ...transport.kube_exec import ExecAddress
from ..base import BackendError

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient, Configuration

Object = dict[str, Any]

#: Seconds after which credentials are loaded again; a projected token is renewed when it is some minutes old.
_RENEW = 60.0
#: Seconds that one request may take, but for a watch.
_REQUEST_TIMEOUT = 30.0
#: Seconds between two tries of a request, at first and at most.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
#: What the server answers where the same request may work later (429 says so itself).
_PASSING = frozenset({429, 500, 502, 503, 504})
#: Bytes of one event of a watch: an object is at most some 2 MiB (etcd's limit is 1.5).
_MAX_EVENT = 8 * 1024 * 1024

_IN_CLUSTER = "/var/run/secrets/kubernetes.io/serviceaccount/token"


class ApiError(BackendError):
    """The API server refused, or could not be asked. `status` is HTTP's, 0 where it did not answer."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after: float = 0) -> None:
        super().__init__(message)
        self.status = status
        #: The API's word for it: "AlreadyExists", "NotFound", "Expired" ...
        self.reason = reason
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether the same request may work later."""
        return self.status == 0 or self.status in _PASSING


class Api:
    """Requests to one API server. Made by `connect`."""

    def __init__(self, kubeconfig: str, context: str) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._client: ApiClient | None = None
        self._loaded_at = 0.0
        self._identity: object = None
        #: Requests for whose answers nobody waits any more.
        self._given_up: set[asyncio.Future[Any]] = set()
        self._loading = asyncio.Lock()

    @classmethod
    async def connect(cls, kubeconfig: str, context: str) -> Api:
        """Load the configuration: the files of `kubeconfig` (as in $KUBECONFIG), else the service account of
        this pod, else ~/.kube/config. Raises `ApiError`."""
        api = cls(kubeconfig or _default_kubeconfig(), context)
        await api._ready()
        return api

    @property
    def host(self) -> str:
        """Where the API server is, as a URL."""
        assert self._client is not None
        return str(self._client.configuration.host)

    async def close(self) -> None:
        """Give back its connections."""
        if self._client is not None:
            # It waits for its connections. What was asked over them ends, or is asked once more.
            await self._client.close()
            self._client = None
            for asking in self._given_up:
                asking.cancel()
            await asyncio.gather(*self._given_up, return_exceptions=True)
            # What was aborted is gone in the loop's next turn.
            await asyncio.sleep(0)

    # -- requests -----------------------------------------------------------------------------------

    async def get(self, path: str, query: Mapping[str, object] | None = None) -> Object:
        """Read an object or a list; tried again while the server is away, for up to 30 s."""
        return await self._patiently("GET", path, query)

    async def create(self, path: str, body: Object, query: Mapping[str, object] | None = None) -> Object:
        """Make an object. Tried again only where the server has surely not made it."""
        return await self._patiently("POST", path, query, body)

    async def patch(self, path: str, body: Object) -> Object:
        """Merge these members in (RFC 7386)."""
        return await self._patiently("PATCH", path, None, body)

    async def delete(self, path: str, grace: int) -> bool:
        """Have an object deleted, `grace` in seconds; whether it is still there."""
        try:
            await self._patiently("DELETE", path, None, {"gracePeriodSeconds": grace})
        except NotFoundError:
            return False
        return True

    async def watch(
        self, path: str, query: Mapping[str, object], seconds: int
    ) -> AsyncGenerator[Object, None]:
        """The events of a watch, until the server ends it after `seconds`. Raises `ApiError`."""
        query = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": seconds}
        response = await self._send("GET", path, query, None, seconds + _REQUEST_TIMEOUT)
        rest = bytearray()
        with self._answering(), _whole(response):
            async for chunk in response.content.iter_any():
                rest += chunk
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    yield _parse(bytes(line))
                if len(rest) > _MAX_EVENT:
                    raise ApiError(f"The API server sent an event of more than {_MAX_EVENT} bytes.")

    async def exec_address(self, path: str, container: str, command: Sequence[str]) -> ExecAddress:
        """How to run a command in a container of the pod at `path`."""
        client = await self._ready()
        headers: dict[str, str] = {}
        await client.update_params_for_auth(headers, None, ["BearerToken"], path, "GET", None)
        return ExecAddress(
            url=f"{self.host}{path}",
            container=container,
            command=command,
            headers=headers,
            ssl_context=client.rest_client.ssl_context if self.host.startswith("https") else None,
        )

    # -- inner workings -----------------------------------------------------------------------------

    async def _patiently(
        self, method: str, path: str, query: Mapping[str, object] | None, body: Object | None = None
    ) -> Object:
        deadline = time.monotonic() + _REQUEST_TIMEOUT
        pause = _FIRST_PAUSE
        while True:
            try:
                response = await self._send(method, path, query, body, _REQUEST_TIMEOUT)
            except ApiError as error:
                wait = max(error.retry_after, pause * random.uniform(0.5, 1.5))  # noqa: S311  # only to spread
                is_sure = method != "POST" or error.status in (429, 503)
                if not error.passing or not is_sure or time.monotonic() + wait > deadline:
                    raise
            else:
                return _parse(await self._read(response))
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _send(
        self, method: str, path: str, query: Mapping[str, object] | None, body: Object | None, seconds: float
    ) -> Any:
        """aiohttp's response with a status that is well. Raises `ApiError`."""
        import aiohttp

        client = await self._ready()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": kind, **client.default_headers}
        await client.update_params_for_auth(headers, None, ["BearerToken"], path, method, body)
        url = f"{self.host}{path}" + (f"?{urlencode(query)}" if query else "")
        limit = aiohttp.ClientTimeout(total=seconds, connect=_REQUEST_TIMEOUT)
        asking = asyncio.ensure_future(client.call_api(method, url, headers, body, _request_timeout=limit))
        with self._answering():
            try:
                # A connection that is given up while it is made leaves its socket open.
                answer = await asyncio.shield(asking)
            except asyncio.CancelledError:
                self._given_up.add(asking)
                asking.add_done_callback(self._let_go)
                raise
        response = answer.response
        if response.status >= 400:
            raise _refusal(response, await self._read(response))
        return response

    async def _read(self, response: Any) -> bytes:
        """The rest of an answer. Raises `ApiError`."""
        with self._answering(), _whole(response):
            body: bytes = await response.read()
            return body

    def _let_go(self, asking: asyncio.Future[Any]) -> None:
        """Give up the answer that has come."""
        self._given_up.discard(asking)
        if not asking.cancelled() and asking.exception() is None:
            response = asking.result().response
            _abort(response, _transport(response))

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Raises `ApiError` for what aiohttp raises where there is no answer, or no whole one."""
        import aiohttp

        try:
            yield
        except (aiohttp.ClientError, OSError) as error:
            raise _unanswered(self.host, error) from error

    async def _ready(self) -> ApiClient:
        """The client, with credentials that are fresh. Raises `ApiError`."""
        async with self._loading:
            if self._client is None or time.monotonic() - self._loaded_at > _RENEW:
                await self._load()
            assert self._client is not None
            return self._client

    async def _load(self) -> None:
        configuration = await self._configuration()
        old = self._client
        try:
            identity = _identity(configuration)
            if old is None or identity != self._identity:
                from kubernetes.aio.client import ApiClient

                self._client = ApiClient(configuration)
                self._identity = identity
        except (OSError, ssl.SSLError) as error:
            raise ApiError(f"The certificates of the cluster's configuration are wrong: {error}.") from error
        if old is not None:
            if self._client is old:
                old.configuration.api_key = configuration.api_key
            else:
                await old.close()
        self._loaded_at = time.monotonic()

    async def _configuration(self) -> Configuration:
        from kubernetes.aio.client import Configuration
        from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
        from yaml import YAMLError

        configuration = Configuration()
        configuration.client_side_validation = False
        # Not by a proxy that the environment names: exec streams could not follow.
        configuration.client_session_kwargs = {"trust_env": False}
        place = self._kubeconfig or "the service account of this pod"
        try:
            if self._kubeconfig:
                await load_kube_config(
                    config_file=self._kubeconfig,
                    context=self._context or None,
                    client_configuration=configuration,
                    persist_config=False,
                )
            else:
                load_incluster_config(configuration, try_refresh_token=False)
        except (
            ConfigException,
            OSError,
            YAMLError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
        ) as error:
            # A kubeconfig of a wrong shape fails in the package with whatever it stumbles over.
            raise ApiError(
                f"The cluster's configuration cannot be loaded from {place}: {error}. Set "
                "KubernetesBackend.kubeconfig, or $KUBECONFIG, to a kubeconfig that works for kubectl."
            ) from error
        for name, value in {
            "proxy-url": configuration.proxy,
            "tls-server-name": configuration.tls_server_name,
        }.items():
            if value:
                raise ApiError(
                    f"The cluster's configuration says {name}, which exec streams cannot follow. Use an "
                    "address of the API server that the gateway reaches directly and that its "
                    "certificate names."
                )
        return configuration


def _default_kubeconfig() -> str:
    """Where nothing says otherwise: "" in a pod, which has a service account."""
    return "" if os.path.exists(_IN_CLUSTER) else os.path.expanduser("~/.kube/config")


class NotFoundError(ApiError):
    """There is no such object."""


def _identity(configuration: Configuration) -> object:
    """What a client's connections depend on: where to, and which certificates, by their content."""
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    contents = []
    for name in files:
        if name:
            with open(name, "rb") as file:
                contents.append(file.read())
    return (configuration.host, configuration.verify_ssl, configuration.proxy, contents)


@contextlib.contextmanager
def _whole(response: Any) -> Iterator[None]:
    """Give up an answer, with its connection, that is not read to its end."""
    transport = _transport(response)  # aiohttp forgets it where it closes by itself
    try:
        yield
    except BaseException:
        _abort(response, transport)
        raise


def _transport(response: Any) -> asyncio.Transport | None:
    """What an answer comes by; None where all of it has come."""
    return response.connection.transport if response.connection is not None else None


def _abort(response: Any, transport: asyncio.Transport | None) -> None:
    """End the connection without TLS's goodbye.

    A server may let it wait for up to 30 s, with the connection open of which aiohttp knows nothing any more.
    """
    if transport is not None:
        transport.abort()
    response.close()


def _parse(data: bytes) -> Object:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ApiError(f"The API server answered with what is no JSON object: {data[:80]!r}.")
    return value


def _refusal(response: Any, body: bytes) -> ApiError:
    """What a status of 400 and more says; the body is a Status where the API server itself answers
    (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/)."""
    message, reason = body[:500].decode(errors="replace").strip(), ""
    with contextlib.suppress(ApiError):
        status = _parse(body)
        message, reason = str(status.get("message", message)), str(status.get("reason", ""))
    try:
        retry_after = float(response.headers.get("Retry-After", 0))
    except ValueError:
        retry_after = 0.0  # a date
    kind = NotFoundError if response.status == 404 else ApiError
    return kind(
        f"The API server answered {response.status}: {message}",
        status=response.status,
        reason=reason,
        retry_after=min(retry_after, _REQUEST_TIMEOUT),
    )


def _unanswered(host: str, error: BaseException) -> ApiError:
    return ApiError(f"The API server at {host} does not answer: {str(error) or type(error).__name__}")
