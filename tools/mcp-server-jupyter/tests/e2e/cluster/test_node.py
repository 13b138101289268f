"""The cluster itself: its node, its API, its limits."""

from __future__ import annotations

import pytest
from control import Control
from kube import IMAGE, Namespace, api, wait_until
from kubernetes import client


def test_every_node_is_ready() -> None:
    nodes = client.CoreV1Api(api()).list_node().items
    assert nodes
    for node in nodes:
        assert {c.type: c.status for c in node.status.conditions}["Ready"] == "True"


def test_an_image_built_from_our_dockerfile_runs_without_a_registry(namespace: Namespace) -> None:
    pod = namespace.run("built", "connect", "127.0.0.1", "1", "--timeout", "1")
    assert namespace.finished("built")[0] == 1
    assert pod["spec"]["containers"][0]["image"] == IMAGE
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert any("already present on machine" in event for event in namespace.events("built"))


def test_a_pod_over_its_memory_limit_is_killed_and_the_status_says_so(namespace: Namespace) -> None:
    limits = {"resources": {"limits": {"memory": "64Mi"}}}
    namespace.run("hungry", "eat", "300", container=limits)
    code, _ = namespace.finished("hungry")
    ended = namespace.pod("hungry")["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (code, ended["reason"]) == (137, "OOMKilled")


def test_a_quota_refuses_the_pod_that_is_one_too_many(namespace: Namespace) -> None:
    namespace.core.create_namespaced_resource_quota(
        namespace.name, {"metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}}
    )
    quotas = namespace.core.list_namespaced_resource_quota
    wait_until("the quota counts", lambda: (quotas(namespace.name).items[0].status.hard or {}).get("pods"))
    namespace.run("first")
    with pytest.raises(client.ApiException, match="exceeded quota: one") as refused:
        namespace.run("second")
    assert refused.value.status == 403


def test_a_service_account_may_do_what_its_role_says_and_no_more(namespace: Namespace) -> None:
    namespace.core.create_namespaced_service_account(namespace.name, {"metadata": {"name": "reader"}})
    role = {"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]}
    namespace.rbac.create_namespaced_role(namespace.name, role)
    namespace.rbac.create_namespaced_role_binding(
        namespace.name,
        {
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace.name}],
        },
    )
    namespace.run("asking", serviceAccountName="reader")
    base = f"/api/v1/namespaces/{namespace.name}"
    assert namespace.probe("asking", "api", "GET", f"{base}/pods") == "200"
    assert namespace.probe("asking", "api", "DELETE", f"{base}/pods/asking") == "403"
    assert namespace.probe("asking", "api", "GET", f"{base}/secrets") == "403"


def test_a_lease_is_kept_by_one_holder(namespace: Namespace) -> None:
    leases = client.CoordinationV1Api(api())
    lease = leases.create_namespaced_lease(
        namespace.name, {"metadata": {"name": "leader"}, "spec": {"holderIdentity": "one"}}
    )
    body = api().sanitize_for_serialization(lease)
    body["spec"]["holderIdentity"] = "two"
    leases.replace_namespaced_lease("leader", namespace.name, body)
    body["spec"]["holderIdentity"] = "late"
    with pytest.raises(client.ApiException) as refused:
        leases.replace_namespaced_lease("leader", namespace.name, body)
    assert refused.value.status == 409


def test_pods_run_on_while_the_api_server_is_killed_and_comes_back(namespace: Namespace, control: Control) -> None:
    namespace.run("server", labels={"app": "server"})
    address = namespace.serving("server")
    namespace.run("client")
    started = namespace.pod("server")["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    control.kill_api_server()
    wait_until("the API server answers again", lambda: _answers(namespace), seconds=90)
    after = namespace.pod("server")["status"]["containerStatuses"][0]
    assert (after["restartCount"], after["state"]["running"]["startedAt"]) == (0, started)
    assert namespace.probe("client", "connect", address, "8000") == "server"
    namespace.run("afterwards", "connect", address, "8000")
    assert namespace.finished("afterwards") == (0, "server")


def _answers(namespace: Namespace) -> bool:
    try:
        namespace.core.read_namespace(namespace.name, _request_timeout=2)
    except Exception:  # noqa: BLE001 - the client's errors for a server that is gone have no common parent
        return False
    return True
