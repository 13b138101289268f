"""The API server: objects, versions, watches with bookmarks, preconditions, owners, and what a test makes it refuse."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

Json = dict[str, Any]


class Cluster:
    """What is stored, and the knobs of a test."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = defaultdict(dict)
        self.requests: list[tuple[str, str]] = []
        """Every request so far: verb and resource."""
        self.denied: set[tuple[str, str]] = set()
        """(verb, resource) that the account's Role lacks."""
        self.quota: dict[str, int] = {}
        """Objects of a resource that the namespace may hold."""
        self.throttle = 0
        """So many of the next requests are answered 429."""
        self.retry_after = "0.05"
        self.overloaded = False
        """Whether every request is answered 503."""
        self.present = asyncio.Event()
        """Cleared, the server answers nobody; connections stay open, as those to a stopped process do."""
        self.present.set()
        self.page: int | None = None
        """Smaller pages than asked for."""
        self.on_create: Callable[[Json], None] = lambda pod: None
        """Told of every new pod: the scheduler and the kubelet."""
        self.on_delete: Callable[[Json], None] = lambda pod: None
        """Told of every pod that is to end."""
        self.forwarded: dict[str, str] = {}
        """Where a pod really is."""
        self._version = itertools.count(1)
        self._history: list[tuple[int, str, str, Json]] = []
        self._oldest = 0
        self._changed = asyncio.Condition()
        self.version = 0

    # ------------------------------------------------------------------ storage

    def put(self, resource: str, obj: Json, kind: str = "MODIFIED") -> Json:
        self.version = next(self._version)
        obj["metadata"]["resourceVersion"] = str(self.version)
        obj = json.loads(json.dumps(obj))
        self.objects[resource][obj["metadata"]["name"]] = obj
        self._tell(resource, kind, obj)
        return obj

    def remove(self, resource: str, name: str) -> None:
        obj = self.objects[resource].pop(name, None)
        if obj is None:
            return
        self.version = next(self._version)
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self._tell(resource, "DELETED", obj)
        if resource == "pods":
            self.on_delete(obj)
        # What the garbage collector does with what this owned: it goes with its last owner.
        for other, found in list(self.objects.items()):
            for one in list(found.values()):
                owners = one["metadata"].get("ownerReferences") or []
                left = [ref for ref in owners if ref["uid"] != obj["metadata"]["uid"]]
                if len(left) == len(owners):
                    continue
                if left:
                    self.put(other, {**one, "metadata": {**one["metadata"], "ownerReferences": left}})
                else:
                    self.remove(other, one["metadata"]["name"])

    def set_status(self, pod_name: str, **status: Any) -> None:
        """Merge into a pod's status, as a kubelet does."""
        pod = self.objects["pods"].get(pod_name)
        if pod is not None:
            self.put("pods", {**pod, "status": {**pod.get("status", {}), **status}})

    def terminate(self, pod_name: str, disruption: str = "") -> None:
        """Delete a pod as people and evictions do: it is told to end, and gone when it has."""
        pod = self.objects["pods"][pod_name]
        if disruption:
            condition = {"type": "DisruptionTarget", "status": "True", "reason": disruption}
            pod = self.put("pods", {**pod, "status": {**pod["status"], "conditions": [condition]}})
        metadata = {**pod["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
        self.on_delete(self.put("pods", {**pod, "metadata": metadata}))

    def event(self, pod_name: str, reason: str, message: str) -> None:
        number = str(len(self.objects["events"]))
        self.objects["events"][number] = {
            "metadata": {"name": number},
            "involvedObject": {"name": pod_name},
            "reason": reason,
            "message": message,
            "lastTimestamp": f"2026-01-01T00:00:{len(self.objects['events']):02d}Z",
        }

    def forget_history(self) -> None:
        """Compact: who watches from an older version is told 410."""
        self._oldest = self.version = next(self._version)
        self._history.clear()
        self._tell("", "EXPIRE", {})

    def bookmark(self) -> None:
        """Tell every watch how far it has come."""
        self._tell("", "BOOKMARK", {})

    def _tell(self, resource: str, kind: str, obj: Json) -> None:
        self._history.append((self.version, resource, kind, obj))

        async def wake() -> None:
            async with self._changed:
                self._changed.notify_all()

        asyncio.get_running_loop().create_task(wake())

    async def changes(self, resource: str, version: int) -> AsyncIterator[tuple[str, Json]]:
        at = 0
        while True:
            if version < self._oldest:
                yield (
                    "ERROR",
                    {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"},
                )
                return
            for number, of, kind, obj in self._history[at:]:
                if kind == "BOOKMARK":
                    version = self.version
                    yield kind, {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}}
                elif of == resource and number > version:
                    version = number
                    yield kind, obj
            at = len(self._history)
            async with self._changed:
                if at == len(self._history):
                    await self._changed.wait()
            at = min(at, len(self._history))


class FakeApi:
    """The HTTP side of a `Cluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeApi]:
        app = web.Application()
        base = "/{prefix:api/v1|apis/[a-z0-9.]+/v1}/namespaces/{namespace}/{resource}"
        app.router.add_route("GET", base, self._collection)
        app.router.add_route("POST", base, self._create)
        app.router.add_route("*", base + "/{name}", self._one)
        app.router.add_get(base + "/{name}/log", self._log)
        app.router.add_get(base + "/{name}/portforward", self._forward)
        app.router.add_post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self._review)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server: Any = site._server
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def kubeconfig(self, folder: Path, namespace: str = "lab") -> Path:
        """A file that leads here."""
        path = folder / "kubeconfig"
        context = {"cluster": "fake", "user": "tester", "namespace": namespace}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "tester", "user": {"token": "test-token"}}],
                    "contexts": [{"name": "fake", "context": context}],
                }
            )
        )
        return path

    # ------------------------------------------------------------------ requests

    async def _admit(self, request: web.Request, verb: str) -> web.Response | None:
        resource = request.match_info.get("resource", "")
        await self.cluster.present.wait()
        self.cluster.requests.append((verb, resource))
        assert request.headers["Authorization"] == "Bearer test-token"
        if self.cluster.throttle > 0:
            self.cluster.throttle -= 1
            return _status(429, "TooManyRequests", "slow down", {"Retry-After": self.cluster.retry_after})
        if self.cluster.overloaded:
            return _status(503, "ServiceUnavailable", "etcd is away")
        if (verb, resource) in self.cluster.denied:
            text = f'{resource} is forbidden: User "tester" cannot {verb} resource "{resource}"'
            return _status(403, "Forbidden", text)
        return None

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        resource = request.match_info["resource"]
        watch = request.query.get("watch") == "true"
        if refused := await self._admit(request, "watch" if watch else "list"):
            return refused
        if watch:
            return await self._watch(request, resource)
        items = [one for one in self.cluster.objects[resource].values() if _fits(one, request.query)]
        items.sort(key=lambda one: str(one["metadata"]["name"]))
        start = int(request.query.get("continue", 0))
        size = min(int(request.query.get("limit", 500)), self.cluster.page or 500)
        metadata = {"resourceVersion": str(self.cluster.version)}
        if start + size < len(items):
            metadata["continue"] = str(start + size)
        return web.json_response({"kind": "List", "metadata": metadata, "items": items[start : start + size]})

    async def _watch(self, request: web.Request, resource: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        async for kind, obj in self.cluster.changes(resource, int(request.query["resourceVersion"])):
            await self.cluster.present.wait()
            if kind in ("ERROR", "BOOKMARK") or _fits(obj, request.query):
                with suppress(ConnectionError):
                    await response.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
        return response

    async def _create(self, request: web.Request) -> web.Response:
        resource = request.match_info["resource"]
        if refused := await self._admit(request, "create"):
            return refused
        obj = await request.json()
        name = obj["metadata"]["name"]
        found = self.cluster.objects[resource]
        if name in found:
            return _status(409, "AlreadyExists", f'{resource} "{name}" already exists')
        if len(found) >= self.cluster.quota.get(resource, 10**9):
            text = f'{resource} "{name}" is forbidden: exceeded quota: lab, limited: {resource}={len(found)}'
            return _status(403, "Forbidden", text)
        obj["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": request.match_info["namespace"]}
        obj["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        stored = self.cluster.put(resource, obj, "ADDED")
        if resource == "pods":
            self.cluster.on_create(stored)
        return web.json_response(stored, status=201)

    async def _one(self, request: web.Request) -> web.Response:
        resource, name = request.match_info["resource"], request.match_info["name"]
        verb = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[request.method]
        if refused := await self._admit(request, verb):
            return refused
        stored = self.cluster.objects[resource].get(name)
        if stored is None:
            return _status(404, "NotFound", f'{resource} "{name}" not found')
        if verb == "get":
            return web.json_response(stored)
        body = await request.json()
        if verb == "delete":
            uid = (body.get("preconditions") or {}).get("uid")
            if uid and uid != stored["metadata"]["uid"]:
                return _status(409, "Conflict", "the UID in the precondition does not match")
            self.cluster.remove(resource, name)
            return web.json_response({"kind": "Status", "status": "Success"})
        version = body.get("metadata", {}).get("resourceVersion")
        if version not in (None, stored["metadata"]["resourceVersion"]):
            return _status(409, "Conflict", "the object has been modified")
        if verb == "patch":
            assert request.headers["Content-Type"] == "application/merge-patch+json"
            body = _merged(stored, body)
        else:
            body["metadata"] = {**stored["metadata"], **body["metadata"]}
        return web.json_response(self.cluster.put(resource, body))

    async def _log(self, request: web.Request) -> web.Response:
        if refused := await self._admit(request, "get"):
            return refused
        return web.Response(text=self.cluster.objects["logs"].get(request.match_info["name"], {}).get("text", ""))

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if refused := await self._admit(request, "create"):
            return refused
        if request.headers.get("Accept") == "application/json":
            return _status(406, "NotAcceptable", "only the following media types are accepted: ")
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        port = int(request.query["ports"])
        address = self.cluster.forwarded[request.match_info["name"]]
        reader, writer = await asyncio.open_connection(address, port)
        number = port.to_bytes(2, "little")
        await socket.send_bytes(b"\x00" + number)
        await socket.send_bytes(b"\x01" + number)

        async def down() -> None:
            while data := await reader.read(1 << 16):
                await socket.send_bytes(b"\x00" + data)
            await socket.close()

        task = asyncio.create_task(down())
        async for message in socket:
            writer.write(message.data[1:])
            await writer.drain()
        task.cancel()
        writer.close()
        return socket

    async def _review(self, request: web.Request) -> web.Response:
        attributes = (await request.json())["spec"]["resourceAttributes"]
        resource = "/".join(attributes[key] for key in ("resource", "subresource") if key in attributes)
        allowed = (attributes["verb"], resource) not in self.cluster.denied
        return web.json_response({"status": {"allowed": allowed}}, status=201)


def _status(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
    return web.json_response(body, status=code, headers=headers)


def _fits(obj: Json, query: Any) -> bool:
    labels = obj["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        name, _, value = term.partition("=")
        if labels.get(name) != value:
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = term.partition("=")
        if name == "involvedObject.name" and obj["involvedObject"]["name"] != value:
            return False
    return True


def _merged(old: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return change
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged
