"""Kernel profiles: what is taken, and how what is not is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcp_server_jupyter.backends.kubernetes.profiles import load_profiles, parse_profiles
from mcp_server_jupyter.errors import InvalidRequest, NotFound
from mcp_server_jupyter.settings import Settings

EVERYTHING = """
gpu:
  display_name: Python with a GPU
  language: python
  interrupt_mode: message
  image: registry.example.org/torch:3
  python: /opt/conda/bin/python
  argv: [/opt/conda/bin/python, -m, ipykernel_launcher, -f, "{connection_file}"]
  resources: {limits: {memory: 16Gi, nvidia.com/gpu: 1}}
  nodeSelector: {pool: gpu}
  tolerations: [{key: gpu, operator: Exists}]
  runtimeClass: gvisor
  priorityClass: research
  serviceAccount: reader
  env: {OMP_NUM_THREADS: "4"}
  envFrom: [{configMapRef: {name: common}}]
  volumes: [{mountPath: /data, readOnly: true, persistentVolumeClaim: {claimName: data}}]
  labels: {team: vision}
  files: none
  warm: 2
  schedule_seconds: 600
  max_hours: 8
plain:
"""


def test_every_key_is_taken_and_nothing_given_is_the_default() -> None:
    found = parse_profiles(EVERYTHING, "profiles.yaml")
    gpu, plain = found["gpu"], found["plain"]

    assert gpu.spec.display_name == "Python with a GPU"
    assert (gpu.spec.source, gpu.spec.language, gpu.spec.argv[0]) == ("profile", "python", "/opt/conda/bin/python")
    assert gpu.resources["limits"] == {"memory": "16Gi", "ephemeral-storage": "4Gi", "nvidia.com/gpu": "1"}
    assert (gpu.files, gpu.warm, gpu.schedule_seconds, gpu.max_hours) == ("none", 2, 600.0, 8.0)
    assert plain.command == ("python3", "-m", "ipykernel_launcher", "-f", "{connection_file}")
    assert (plain.spec.display_name, plain.files, plain.warm) == ("plain", "root", 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:\n  imagee: x\n", ["line 2", "unknown key 'imagee'", "Known keys", "image"]),
        ("a:\n  image: x\n  warm: two\n", ["line 3", "'warm' of profile 'a' must be a whole number"]),
        ("a:\n  warm: true\n", ["whole number"]),
        ("a:\n  image: [x]\n", ["'image'", "must be text"]),
        ("a:\n  env: {DEBUG: yes}\n", ["'env'", "DEBUG is not text; put it in quotes"]),
        ("a:\n  argv: [R, --slave]\n", ["'argv'", "no word holds {connection_file}"]),
        ("a:\n  files: home\n", ["'files'", '"root" or "none"']),
        ("a:\n  labels: {app: mcp-server-manager}\n", ["app is the server's own label"]),
        ("a:\n  labels: {mcp-jupyter/gen: '1'}\n", ["mcp-jupyter/gen is the server's own label"]),
        ("a:\n  resources: {limit: {memory: 1Gi}}\n", ["'resources'", "it holds 'limit'"]),
        ("a:\n  volumes: [{mountPath: data, emptyDir: {}}]\n", ["absolute mountPath"]),
        ("a:\n  volumes: [{mountPath: /data}]\n", ["one source"]),
        ("a:\n  max_hours: 0\n", ["'max_hours'", "above 0"]),
        ("a:\n  image: x\n  image: y\n", ["line 3", "twice"]),
        ("a:\n  image: x\na:\n  image: y\n", ["line 3", "two profiles 'a'"]),
        ("a b: {}\n", ["no name for a profile"]),
        ("a: text\n", ["must be a mapping"]),
        ("- a\n", ["must map names to profiles"]),
        ("a: {\n", ["not YAML"]),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_line(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_profiles(text, "profiles.yaml")

    for word in ["profiles.yaml", *words]:
        assert word in str(caught.value)


def test_there_is_always_python3_and_a_file_may_say_what_it_is(tmp_path: Path) -> None:
    settings = Settings.load({"root": tmp_path}, {})
    assert [profile.name for profile in load_profiles(settings)] == ["python3"]
    path = tmp_path / "profiles.yaml"
    path.write_text("python3: {image: ours}\nr: {argv: [R, '{connection_file}'], language: R}\n")
    profiles = load_profiles(replace(settings, kernel_profiles=path))

    assert [profile.name for profile in profiles] == ["python3", "r"]
    assert profiles.get("python3").image == "ours"
    with pytest.raises(NotFound, match="python3, r"):
        profiles.get("julia")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    settings = Settings.load({"root": tmp_path}, {})
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_profiles(replace(settings, kernel_profiles=tmp_path / "missing.yaml"))
