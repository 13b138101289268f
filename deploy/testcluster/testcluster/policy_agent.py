"""The NetworkPolicy agent: keeps the node's packet filter as the policies say.

A pod's network is not handed over before its rules are in place: the last CNI
plugin tells this agent the new address and waits for the answer. So a policy
holds from a pod's first packet, and an admitted peer is admitted at once.
"""

from __future__ import annotations

import json
import socketserver
import subprocess
import time
from dataclasses import asdict, dataclass
from threading import Condition, Lock, Thread

from testcluster.components import policy_socket
from testcluster.config import Paths
from testcluster.kubeapi import Api, Mirror, Object
from testcluster.policy import Pod, pod_from, ruleset
from testcluster.shell import CommandFailed, note, run

_PATIENCE = 20.0


@dataclass(frozen=True)
class Attachment:
    """What the CNI plugin tells of a pod's network."""

    address: str
    namespace: str
    pod: str
    uid: str


class Agent:
    """What the agent knows, and the one place that writes the rules."""

    def __init__(self, paths: Paths) -> None:
        api = Api(paths.pki, "policy")
        self._dirty = Condition()
        self._asked, self._written = 0, 0
        self._attached_lock = Lock()
        self._attached_file = paths.home / "policy-attached.json"
        self._attached: dict[str, Attachment] = {}  # by sandbox, from the CNI plugin
        if self._attached_file.exists():
            told = json.loads(self._attached_file.read_text())
            self._attached = {sandbox: Attachment(**fields) for sandbox, fields in told.items()}
        self.pods = Mirror(api, "/api/v1/pods", self.touch)
        self.namespaces = Mirror(api, "/api/v1/namespaces", self.touch)
        self.policies = Mirror(api, "/apis/networking.k8s.io/v1/networkpolicies", self.touch)
        self._mirrors = (self.pods, self.namespaces, self.policies)

    def start(self) -> None:
        for mirror in self._mirrors:
            mirror.start()
        Thread(target=self._write_for_ever, daemon=True).start()

    def touch(self) -> None:
        """Something changed: the rules are due."""
        with self._dirty:
            self._asked += 1
            self._dirty.notify_all()

    def attach(self, sandbox: str, attachment: Attachment) -> None:
        """Return once the rules know this pod at this address."""
        deadline = time.monotonic() + _PATIENCE
        with self._attached_lock:
            # An address has one owner: a sandbox that went while this agent was away did not say so.
            stale = [key for key, other in self._attached.items() if other.address == attachment.address]
            for key in stale:
                del self._attached[key]
            self._attached[sandbox] = attachment
            self._save()
        while self._manifest(attachment) is None or self.namespaces.get("", attachment.namespace) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the API server did not tell of {attachment} in time")
            time.sleep(0.01)
        self.touch()
        with self._dirty:
            due = self._asked
            if not self._dirty.wait_for(lambda: self._written >= due, timeout=_PATIENCE):
                raise TimeoutError("the rules were not written in time")

    def detach(self, sandbox: str) -> None:
        """Forget a sandbox's address; it is closed again until the next pod has it."""
        with self._attached_lock:
            self._attached.pop(sandbox, None)
            self._save()
        self.touch()

    def _save(self) -> None:
        scratch = self._attached_file.with_suffix(".new")
        scratch.write_text(json.dumps({sandbox: asdict(a) for sandbox, a in self._attached.items()}))
        scratch.rename(self._attached_file)

    def _manifest(self, attachment: Attachment) -> Object | None:
        """The pod's manifest; not that of an earlier pod of the same name."""
        manifest = self.pods.get(attachment.namespace, attachment.pod)
        if manifest is None or (attachment.uid and manifest["metadata"]["uid"] != attachment.uid):
            return None
        return manifest

    def _current_pods(self) -> list[Pod]:
        found = []
        for attachment in list(self._attached.values()):
            manifest = self._manifest(attachment)
            if manifest is not None:
                found.append(pod_from(manifest, attachment.address))
        return found

    def _write_for_ever(self) -> None:
        while True:
            with self._dirty:
                self._dirty.wait_for(lambda: self._asked > self._written, timeout=60)
                due = self._asked
            if not all(mirror.synced for mirror in self._mirrors):
                time.sleep(0.02)
                continue
            namespaces = {n["metadata"]["name"]: n["metadata"].get("labels", {}) for n in self.namespaces.objects()}
            text = ruleset(self._current_pods(), self.policies.objects(), namespaces)
            try:
                run("nft", "-f", "-", stdin=text, timeout=30)
            except (CommandFailed, OSError) as error:
                note(f"{error}\n{text}")
                time.sleep(1)
                continue
            with self._dirty:
                self._written = due
                self._dirty.notify_all()


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    agent: Agent


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        line = self.rfile.readline()
        if not line:
            return
        asked = json.loads(line)
        try:
            if asked["command"] == "ADD":
                self.server.agent.attach(asked["sandbox"], Attachment(**asked["attachment"]))
            else:
                self.server.agent.detach(asked["sandbox"])
            self.wfile.write(b"ok\n")
        except OSError as error:  # late, or no room to write down the address
            self.wfile.write(f"{error}\n".encode())


def serve(paths: Paths) -> None:
    """Run for ever. Until the first list is in, pods are closed."""
    close_everything()
    agent = Agent(paths)
    agent.start()
    while not (agent.pods.synced and agent.namespaces.synced and agent.policies.synced):
        time.sleep(0.05)
    path = policy_socket(paths)
    path.unlink(missing_ok=True)
    with _Server(str(path), _Handler) as server:
        server.agent = agent
        server.serve_forever()


def close_everything() -> None:
    """On the first start there are no rules yet: know no address. Later ones keep what is there."""
    listed = subprocess.run(["nft", "list", "table", "inet", "testcluster-policy"], capture_output=True, check=False)
    if listed.returncode:
        run("nft", "-f", "-", stdin=ruleset([], [], {}))
