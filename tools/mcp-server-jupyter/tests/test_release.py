"""`make release`, on a small repository of the same shape whose gate and build are a line each."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
ROOT = PROJECT.parent.parent
PACKAGE = "tools/mcp-server-jupyter"
FILES = {
    ".gitignore": "dist/\npython_server/\n",
    ".ci/run": "grep -q '2.0.0' tools/mcp-server-jupyter/pyproject.toml && test ! -e fail\n",
    "Makefile": "package:\n\tmkdir -p $(DIST) && echo wheel > $(DIST)/x.whl\n",
    "CHANGELOG.md": "# Changelog\n\n## Unreleased\n\n### Added\n- Something.\n\n## 1.0.0 - 2026-01-01\n- The first.\n",
    f"{PACKAGE}/pyproject.toml": '[project]\nname = "x"\nversion = "1.0.0"\n'
    '[tool.poetry]\npackages = [{ to = "mcp_server_jupyter-1.0.0.data/data" }]\n',
    "tools/tk-ai-extension/pyproject.toml": '[project]\nname = "y"\nversion = "1.0.0"\n'
    'dependencies = ["mcp-server-jupyter (==1.0.0)"]\n'
    '[tool.poetry]\npackages = [{ to = "tk_ai_extension-1.0.0.data/data" }]\n',
    f"{PACKAGE}/src/mcp_server_jupyter/__init__.py": '__version__ = "1.0.0"\n',
    "vscode-extension/package.json": '{\n  "name": "mcp-server-jupyter",\n  "version": "1.0.0"\n}\n',
    "vscode-extension/package-lock.json": '{\n  "name": "mcp-server-jupyter",\n  "version": "1.0.0",\n  "packages": {\n'
    '    "": {\n      "name": "mcp-server-jupyter",\n      "version": "1.0.0"\n    }\n  }\n}\n',
    "vscode-extension/scripts/requirements-pip.txt": "pip==26.3 --hash=sha256:00\n",
    "deploy/deployment.yaml": "image: mcp-server-jupyter/server:1.0.0\n",
}


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", PROJECT / "scripts" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "config", "user.name", "Tests")
    git(folder, "config", "user.email", "tests@localhost")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Begin")
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def state(folder: Path) -> tuple[str, ...]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".git" not in path.parts]
    return (git(folder, "rev-parse", "HEAD"), git(folder, "tag"), *(f"{path}: {path.read_text()}" for path in files))


@contextmanager
def nothing_changes(folder: Path) -> Iterator[None]:
    before = state(folder)
    yield
    assert state(folder) == before


def test_a_release_has_one_version_everywhere_a_dated_section_a_commit_a_tag_and_sums(
    release: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert release.main(["make", "2.0.0"], repository) == 0
    assert git(repository, "log", "-1", "--format=%s") == "Release 2.0.0"
    assert git(repository, "cat-file", "-t", "v2.0.0") == "tag"
    assert git(repository, "rev-parse", "v2.0.0^{commit}") == git(repository, "rev-parse", "HEAD")
    assert git(repository, "status", "--porcelain") == ""
    for name in FILES:
        text = (repository / name).read_text()
        assert "1.0.0" not in text or name == "CHANGELOG.md", name
    assert release.main(["check", "2.0.0"], repository) == 0
    changelog = (repository / "CHANGELOG.md").read_text()
    assert "## Unreleased\n\n## 2.0.0 - 20" in changelog
    assert "git push --atomic origin main v2.0.0" in capsys.readouterr().out
    dist = repository / "dist"
    assert (dist / "NOTES.md").read_text() == "### Added\n- Something.\n"
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
    parts = json.loads((dist / "mcp-server-jupyter-2.0.0.cdx.json").read_text())
    assert parts["bomFormat"] == "CycloneDX"
    assert [part["purl"] for part in parts["components"]] == ["pkg:pypi/pip@26.3"]


def test_a_dry_run_passes_every_gate_and_changes_nothing(
    release: ModuleType, repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with nothing_changes(repository):
        assert release.main(["make", "2.0.0", "--dry-run"], repository) == 0
    assert "SHA256SUMS" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("", "is not a version"),
        ("2.0", "is not a version"),
        ("v2.0.0", "is not a version"),
        ("0.9.9", "is lower than 1.0.0"),
        ("1.5.0", "is lower than 1.6.0, which is released"),
        ("1.6.0", "there is a tag v1.6.0 already"),
    ],
)
def test_a_version_that_is_none_or_not_higher_is_refused(
    release: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str], version: str, reason: str
) -> None:
    git(repository, "tag", "v1.6.0")
    with nothing_changes(repository):
        assert release.main(["make", version], repository) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("name", ["CHANGELOG.md", "new.txt"])
def test_a_dirty_tree_is_refused(
    release: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with (repository / name).open("a") as file:
        file.write("not committed\n")
    with nothing_changes(repository):
        assert release.main(["make", "2.0.0"], repository) == 1
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("section", ["", "\n### Added\n"])
def test_a_changelog_that_says_nothing_is_refused(
    release: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str], section: str
) -> None:
    (repository / "CHANGELOG.md").write_text(f"# Changelog\n\n## Unreleased\n{section}\n## 1.0.0\n- The first.\n")
    git(repository, "commit", "--quiet", "--all", "--message", "Empty the changelog")
    with nothing_changes(repository):
        assert release.main(["make", "2.0.0"], repository) == 1
    assert "what will users notice?" in capsys.readouterr().err


def test_a_gate_that_fails_leaves_everything_as_it_was(
    release: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "fail").write_text("")
    git(repository, "add", "fail")
    git(repository, "commit", "--quiet", "--message", "Break it")
    with nothing_changes(repository):
        assert release.main(["make", "2.0.0"], repository) == 1
    assert "`bash .ci/run` failed" in capsys.readouterr().err


def test_a_version_that_stands_in_fewer_places_than_it_should_is_refused(
    release: ModuleType, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository / "vscode-extension/package-lock.json").write_text("{}\n")
    git(repository, "commit", "--quiet", "--all", "--message", "Lose a version")
    with nothing_changes(repository):
        assert release.main(["make", "2.0.0"], repository) == 1
    assert "package-lock.json has 0 versions" in capsys.readouterr().err


def test_the_places_of_the_version_are_those_of_this_repository(release: ModuleType) -> None:
    version = release.current_version(ROOT)
    for path, pattern, times in release.PLACES:
        found = list(release.re.finditer(pattern, (ROOT / path).read_text()))
        assert [match.group() for match in found] == [match.group(1) + version for match in found], path
        assert len(found) == times, path


def test_every_lock_is_watched_for_updates() -> None:
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    watched = {
        (update["package-ecosystem"], folder)
        for update in updates
        for folder in update.get("directories", [update.get("directory")])
    }
    kinds = {"poetry.lock": "pip", "package-lock.json": "npm", "go.sum": "gomod", "go.mod": "gomod"}
    for name in git(ROOT, "ls-files").splitlines():
        path = Path(name)
        kind = "pip" if path.match("requirements*.txt") else kinds.get(path.name)
        if kind is not None:
            assert (kind, f"/{path.parent.as_posix()}") in watched, name


def test_every_action_is_named_by_its_commit() -> None:
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    for file in workflows:
        used = actions_of(yaml.safe_load(file.read_text()))
        assert [name for name in used if len(name.partition("@")[2]) != 40] == [], file.name


def actions_of(workflow: dict[str, dict[str, dict[str, list[dict[str, str]]]]]) -> list[str]:
    steps = [step for job in workflow["jobs"].values() for step in job.get("steps", [])]
    return [step["uses"] for step in steps if "uses" in step]
