"""The API server, spoken to in plain JSON: objects are dicts as `kubectl get -o json` shows them.

Source: kubernetes.io, "Kubernetes API Concepts" (lists in pages, watches, bookmarks, preconditions).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import orjson

from ...errors import InvalidRequest, Unavailable
from ...settings import Settings
from .refusals import Hopeless, Missing, Unauthenticated, refusal

if TYPE_CHECKING:
    import aiohttp
    from kubernetes.aio.client import ApiClient, Configuration

Json = dict[str, Any]

PAGE = 500
WATCH_SECONDS = 240
# Bookmarks come about every minute: a watch silent for longer has lost its server.
_WATCH_SILENCE = 100.0
_REQUEST_SECONDS = 15.0
# API priority and fairness tells when to come again; longer than this in sum is an error of its own.
_PATIENCE = 60.0
_LONGEST_PAUSE = 10.0

_PREFIXES = {
    "pods": "api/v1",
    "secrets": "api/v1",
    "services": "api/v1",
    "configmaps": "api/v1",
    "events": "api/v1",
    "persistentvolumeclaims": "api/v1",
    "resourcequotas": "api/v1",
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "leases": "apis/coordination.k8s.io/v1",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """Every object asked for, and the version from which a watch goes on."""

    items: list[Json]
    version: str


class Api:
    """One namespace of one cluster. Made by `open_api`."""

    def __init__(self, client: ApiClient, namespace: str, *, in_cluster: bool) -> None:
        self.namespace = namespace
        self.in_cluster = in_cluster
        self._client = client

    async def get(self, resource: str, name: str) -> Json:
        """One object.

        Raises:
            Missing, Denied, Unavailable
        """
        return await self._json("GET", resource, name)

    async def find(self, resource: str, name: str) -> Json | None:
        """One object, or None where there is none of this name."""
        try:
            return await self.get(resource, name)
        except Missing:
            return None

    async def list(self, resource: str, *, labels: str = "", fields: str = "") -> Listing:
        """Every object that fits, read in pages of 500."""
        items: list[Json] = []
        more = ""
        while True:
            query = {"limit": str(PAGE), "labelSelector": labels, "fieldSelector": fields, "continue": more}
            page = await self._json("GET", resource, query=query)
            items += page.get("items") or []
            more = page["metadata"].get("continue", "")
            if not more:
                return Listing(items, page["metadata"].get("resourceVersion", ""))

    async def create(self, resource: str, manifest: Json) -> Json:
        """Make an object.

        Raises:
            Exists: there is one of this name.
            Denied: the account may not; QuotaExceeded and others by admission.
            Invalid: the API server takes no such object; its words.
        """
        return await self._json("POST", resource, body=manifest)

    async def replace(self, resource: str, name: str, manifest: Json) -> Json:
        """Write a whole object; with `metadata.resourceVersion` only if it is still that one.

        Raises:
            Changed: it is another one by now.
        """
        return await self._json("PUT", resource, name, body=manifest)

    async def patch(self, resource: str, name: str, change: Json) -> Json:
        """Change parts of an object (JSON merge patch); with `metadata.resourceVersion` only if it is still that one.

        Raises:
            Changed, Missing
        """
        return await self._json("PATCH", resource, name, body=change, content_type="application/merge-patch+json")

    async def delete(self, resource: str, name: str, *, grace_seconds: int | None = None, uid: str = "") -> None:
        """Delete an object, with what it owns in the background. One that is gone already is fine."""
        options: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._json("DELETE", resource, name, body=options)
        except Missing:
            return

    async def watch(self, resource: str, version: str, *, labels: str = "") -> AsyncIterator[tuple[str, Json]]:
        """Every change after a version, as (ADDED, MODIFIED, DELETED or BOOKMARK, object); ends after four minutes.

        Raises:
            Expired: the version is too old; list again.
            Unavailable: the API server is away.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
            "resourceVersion": version,
            "labelSelector": labels,
        }
        async with self._request("GET", _path(resource, self.namespace), query, silence=_WATCH_SILENCE) as response:
            async for line in _lines(response):
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    raise refusal(int(event["object"].get("code", 500)), event["object"], "watch", resource)
                yield event["type"], event["object"]

    async def log(self, pod: str, *, lines: int = 50) -> str:
        """The end of what a pod has printed; empty where that cannot be had."""
        path = f"{_path('pods', self.namespace)}/{pod}/log"
        try:
            async with self._request("GET", path, {"tailLines": str(lines)}) as response:
                return (await response.read()).decode("utf-8", "replace")
        except (Unavailable, InvalidRequest, Missing):
            return ""

    async def allowed(self, verb: str, resource: str, name: str = "") -> bool | None:
        """Whether the account may do this in the namespace (to one object); None where it may not even ask."""
        resource, _, subresource = resource.partition("/")
        prefix = _PREFIXES[resource]
        group = prefix.split("/")[1] if prefix.startswith("apis/") else ""
        attributes = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource}
        attributes |= {key: value for key, value in (("subresource", subresource), ("name", name)) if value}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        try:
            async with self._request("POST", path, {}, review) as response:
                return bool(orjson.loads(await response.read()).get("status", {}).get("allowed"))
        except (Unavailable, InvalidRequest):
            return None

    @asynccontextmanager
    async def port_forward(self, pod: str, port: int) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """One connection to a pod's port through the API server: `v4.channel.k8s.io`, data on channel 0.

        Raises:
            Unavailable
        """
        import aiohttp  # noqa: PLC0415 - only for who needs it

        path = f"{_path('pods', self.namespace)}/{pod}/portforward"
        url, headers = await self._prepared("GET", path, {"ports": str(port)}, None, "")
        # What is asked for is a protocol, not a type: with a type the server answers 406.
        del headers["Accept"], headers["Content-Type"]
        session = self._client.rest_client.pool_manager or self._client.rest_client._create_pool_manager()
        self._client.rest_client.pool_manager = session
        try:
            async with session.ws_connect(
                url.replace("http", "ws", 1), headers=headers, protocols=("v4.channel.k8s.io",), max_msg_size=0
            ) as socket:
                yield socket
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"The API server forwards no port of the pod {pod} ({error}).") from error

    # ------------------------------------------------------------------ one request

    async def _json(
        self,
        method: str,
        resource: str,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "",
    ) -> Json:
        path = _path(resource, self.namespace) + (f"/{name}" if name else "")
        async with self._request(method, path, query or {}, body, content_type=content_type) as response:
            data: Json = orjson.loads(await response.read())
            return data

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | None = None,
        *,
        content_type: str = "",
        silence: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send it, again when the server asks to come later, and translate what it refuses."""
        import aiohttp  # noqa: PLC0415 - part of the extra

        timeout = aiohttp.ClientTimeout(total=None if silence else _REQUEST_SECONDS, connect=10, sock_read=silence)
        waited = 0.0
        try:
            while True:
                url, headers = await self._prepared(method, path, query, body, content_type)
                answer = await self._client.call_api(method, url, headers, body, _request_timeout=timeout)
                async with answer.response as response:
                    if response.status == 429 and waited < _PATIENCE:
                        pause = _retry_after(response)
                        waited += pause
                        await anyio.sleep(pause)
                        continue
                    if response.status >= 400:
                        text = await response.read()
                        raise await self._refusal(response.status, text, method, path)
                    yield response
                    return
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            raise Unavailable(
                f"The Kubernetes API server does not answer ({str(error) or type(error).__name__}).",
                hint="Kernels that run go on; try again.",
            ) from error

    async def _prepared(
        self, method: str, path: str, query: Mapping[str, str], body: Json | None, content_type: str
    ) -> tuple[str, dict[str, str]]:
        headers = {"Accept": "application/json", "Content-Type": content_type or "application/json"}
        given = [(name, value) for name, value in query.items() if value]
        _, url, headers, _, _ = await self._client.param_serialize(
            method, path, query_params=given, header_params=headers, auth_settings=["BearerToken"]
        )
        return url, headers

    async def _refusal(self, status: int, text: bytes, method: str, path: str) -> Exception:
        try:
            told = orjson.loads(text)
        except orjson.JSONDecodeError:
            told = {"message": text.decode("utf-8", "replace")[:500]}
        parts = path.strip("/").split("/")
        at = parts.index("namespaces") + 2 if "namespaces" in parts else len(parts) - 1
        resource, named = "/".join(parts[at:][:1] + parts[at:][2:]), len(parts) > at + 1
        verb = _verb(method, named=named)
        if status == 401:
            return Unauthenticated(told.get("message", "Unauthorized"))
        if status == 403 and resource in _PREFIXES:
            # RBAC and admission (quota, pod security) both answer 403 "Forbidden": only a review tells them apart.
            return refusal(status, told, verb, resource, allowed=await self.allowed(verb, resource))
        return refusal(status, told, verb, resource)


@asynccontextmanager
async def open_api(settings: Settings) -> AsyncIterator[Api]:
    """Connect as the pod's own account, else as the kubeconfig says.

    Raises:
        Unavailable: there is no cluster to connect to.
        InvalidRequest: no namespace was given.
    """
    configuration, context_namespace, in_cluster = await _configuration(settings)
    namespace = settings.namespace or context_namespace
    if not namespace:
        raise InvalidRequest(
            "No namespace was given for the kernel pods.",
            hint="Give --namespace, or set POD_NAMESPACE from metadata.namespace by the Downward API.",
        )
    from kubernetes.aio.client import ApiClient  # noqa: PLC0415 - 0.5 s and 46 MB that only this backend pays

    async with ApiClient(configuration) as client:
        yield Api(client, namespace, in_cluster=in_cluster)


async def _configuration(settings: Settings) -> tuple[Configuration, str, bool]:
    from kubernetes.aio.client import Configuration  # noqa: PLC0415 - see above
    from kubernetes.aio.config import (  # noqa: PLC0415
        ConfigException,
        load_incluster_config,
        load_kube_config,
    )
    from kubernetes.aio.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION  # noqa: PLC0415

    configuration = Configuration()
    # One more connection than everything that goes on at once: starts, the watch, the lease.
    configuration.connection_pool_maxsize = 64
    if settings.kubeconfig is None:
        try:
            load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        except ConfigException:
            pass
        else:
            # The API server's own address is never behind a proxy.
            configuration.client_session_kwargs = {"trust_env": False}
            return configuration, "", True
    place = settings.kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION
    if not _is_there(place):
        raise Hopeless(
            f"There is no cluster to start kernels in: this is no pod, and there is no kubeconfig at {place}.",
            hint="Set KUBECONFIG or give --kubeconfig; `kubectl get pods` must work.",
        )
    try:
        loader = await load_kube_config(  # type: ignore[no-untyped-call]
            place, client_configuration=configuration, persist_config=False
        )
        context = loader.current_context.get("context") or {}
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"The kubeconfig {place} cannot be used: {error}.", hint="Mend it.") from error
    return configuration, str(context.get("namespace") or ""), False


def _is_there(places: str) -> bool:
    """Whether any of the files of a KUBECONFIG is there."""
    return any(Path(part).expanduser().is_file() for part in places.split(os.pathsep) if part)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for line in response.content:
            if line.strip():
                yield line
    except ValueError as error:
        raise Unavailable("The API server sent an object that is too long for a watch.") from error


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return min(max(float(response.headers.get("Retry-After", 1)), 0.05), _LONGEST_PAUSE)
    except ValueError:
        return 1.0


def _verb(method: str, *, named: bool) -> str:
    if method == "GET":
        return "get" if named else "list"
    return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]


def _path(resource: str, namespace: str) -> str:
    return f"/{_PREFIXES[resource]}/namespaces/{namespace}/{resource}"
