"""A Kubernetes client of the standard library: requests, and list-then-watch."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

from testcluster.config import API_PORT, NODE_IP
from testcluster.shell import note

Object = dict[str, Any]
_WATCH_SECONDS = 240


class ApiError(Exception):
    """The server answered, and not with success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


class Api:
    """One identity's view of the API server."""

    def __init__(self, pki: Path, client: str) -> None:
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._tls.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(NODE_IP, API_PORT, context=self._tls, timeout=timeout)

    def request(self, method: str, path: str, body: Object | None = None) -> Object:
        """One request, answered with an object or an ``ApiError``."""
        connection = self._connect(timeout=15)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
            if response.status >= 300:
                raise ApiError(response.status, text)
            return dict(json.loads(text))
        finally:
            connection.close()

    def watch(self, path: str, version: str) -> Iterator[Object]:
        """The events after ``version``, until the server ends the watch."""
        connection = self._connect(timeout=_WATCH_SECONDS + 30)
        try:
            query = f"?watch=1&allowWatchBookmarks=true&timeoutSeconds={_WATCH_SECONDS}&resourceVersion={version}"
            connection.request("GET", path + query)
            response = connection.getresponse()
            if response.status >= 300:
                raise ApiError(response.status, response.read().decode())
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()


class Mirror:
    """A copy of one collection, kept current by a thread of its own."""

    def __init__(self, api: Api, path: str, changed: Callable[[], None]) -> None:
        self._api, self._path, self._changed = api, path, changed
        self._objects: dict[str, Object] = {}
        self.synced = False

    def start(self) -> None:
        Thread(target=self._run, name=self._path, daemon=True).start()

    def objects(self) -> list[Object]:
        return list(self._objects.values())

    def get(self, namespace: str, name: str) -> Object | None:
        return self._objects.get(f"{namespace}/{name}")

    def _run(self) -> None:
        while True:
            try:
                self._follow()
            except (ApiError, OSError, http.client.HTTPException, ValueError) as error:
                note(f"{self._path}: {error}; listing again")
                time.sleep(0.5)

    def _follow(self) -> None:
        listed = self._api.request("GET", self._path)
        version = listed["metadata"]["resourceVersion"]
        self._objects = {_key(item): item for item in listed["items"]}
        self.synced = True
        self._changed()
        while True:
            for event in self._api.watch(self._path, version):
                if event["type"] == "ERROR":
                    raise ApiError(int(event["object"].get("code", 0)), str(event["object"].get("message")))
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "BOOKMARK":
                    continue
                if event["type"] == "DELETED":
                    self._objects.pop(_key(event["object"]), None)
                else:
                    self._objects[_key(event["object"])] = event["object"]
                self._changed()


def _key(item: Object) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"
