"""What is deployed beside a JupyterHub, read as it is written; a real hub runs with it in `make e2e-hub`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from mcp_server_jupyter import __version__
from mcp_server_jupyter.doors.hub.serve import service_settings
from mcp_server_jupyter.settings import Settings

FOLDER = Path(__file__).resolve().parents[4] / "deploy" / "jupyterhub"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
OBJECTS: dict[str, Any] = {one["kind"]: one for one in yaml.safe_load_all((FOLDER / "service.yaml").read_text())}
NAME = "ltt-tutor"


def test_learners_servers_have_the_limits_that_were_asked_for() -> None:
    learner = VALUES["singleuser"]
    assert learner["memory"] == {"guarantee": "512M", "limit": "1G"}
    assert learner["cpu"] == {"guarantee": 0.1, "limit": 0.5}
    assert learner["storage"] == {"capacity": "2Gi", "dynamic": {"storageClass": "nfs-client"}}
    assert (VALUES["cull"]["enabled"], VALUES["cull"]["timeout"], VALUES["cull"]["maxAge"]) == (True, 1200, 14_400)


def test_the_services_role_is_its_own_and_is_for_learners_alone() -> None:
    role = VALUES["hub"]["loadRoles"][NAME]
    assert role["services"] == [NAME]
    assert all(scope.endswith("!group=learners") for scope in role["scopes"])
    # What a learner might catch is to open their own server only.
    assert not any(scope.startswith("access:") for scope in role["scopes"])
    assert "learners" in VALUES["hub"]["config"]["JupyterHub"]["load_groups"]


def test_the_service_is_where_the_hub_looks_for_it_and_starts_with_its_settings(tmp_path: Path) -> None:
    deployment, service = OBJECTS["Deployment"], OBJECTS["Service"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == f"mcp-server-jupyter/server:{__version__}"
    assert container["args"] == ["hub"]
    environ = {each["name"]: each.get("value", "from-the-secret") for each in container["env"]}
    settings = service_settings(Settings.load({"state_dir": tmp_path}, environ=environ))
    assert VALUES["hub"]["services"][NAME]["url"] == f"http://{service['metadata']['name']}:{settings.port}"
    assert service["spec"]["ports"] == [{"port": settings.port}]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert settings.hub_service_prefix == f"/services/{NAME}/"
    assert (settings.hub_service_name, settings.staff_group) == (NAME, "staff")
    assert settings.staff_group in VALUES["hub"]["config"]["JupyterHub"]["load_groups"]
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert environ["MCP_JUPYTER_STATE_DIR"] in mounts
    (key,) = (each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"] if "valueFrom" in each)
    assert key == f"hub.services.{NAME}.apiToken"


def test_one_service_at_a_time_has_the_state() -> None:
    spec = OBJECTS["Deployment"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_other_role_opens_servers_by_the_services_own_token_and_its_hook_lets_it_in() -> None:
    other = yaml.safe_load((FOLDER / "access-role.yaml").read_text())["hub"]
    (role,) = other["loadRoles"].values()
    own = set(VALUES["hub"]["loadRoles"][NAME]["scopes"])
    assert set(role["scopes"]) == own - {"tokens!group=learners"} | {"access:servers!group=learners"}
    spawner = SimpleNamespace(oauth_access_scopes=["access:servers!server=ada/"])
    config = SimpleNamespace(Spawner=SimpleNamespace())
    for source in other["extraConfig"].values():
        exec(source, {"c": config})
    config.Spawner.pre_spawn_hook(spawner)
    assert spawner.oauth_access_scopes == ["access:servers!server=ada/", "access:servers!group=learners"]


def test_the_learners_image_installs_the_list_and_our_wheel_with_its_extra() -> None:
    text = (FOLDER / "learner.Dockerfile").read_text()
    assert "COPY learner.txt *.whl" in text
    assert "--requirement /tmp/learner.txt" in text
    assert "[jupyter]" in text
    assert "USER 1000" in text
    wanted = (FOLDER / "learner.txt").read_text()
    for name in ("jupyterhub", "jupyterlab", "jupyter-collaboration", "jupysql"):
        assert f"\n{name}==" in wanted
