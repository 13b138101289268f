"""Make a release: `release.py make X.Y.Z [--dry-run]`, `release.py check X.Y.Z`, `release.py assets X.Y.Z FOLDER`.

Everything is done in a clone beside the repository: one version everywhere, the changelog's section, the gates, the
packages with their sums and their CycloneDX list, a commit and a tag. Only when all of that went well does the
repository get the commit and the tag, and DIST the packages; nothing is pushed. A dry run leaves out that last step.

Standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGE = Path("tools/mcp-server-jupyter")
CHANGELOG = Path("CHANGELOG.md")
PYPROJECT = PACKAGE / "pyproject.toml"
NAMES = Path("tools/tk-ai-extension/pyproject.toml")
MANIFEST = Path("vscode-extension/package.json")
NPM_LOCK = Path("vscode-extension/package-lock.json")
IMAGES = r"(mcp-server-jupyter/(?:server|kernel):)\d+\.\d+\.\d+"
NUMBER = re.compile(r"\d+\.\d+\.\d+")

# Where the version stands: the file, what stands before it, and how often it has to be there.
PLACES: tuple[tuple[Path, str, int], ...] = (
    (PYPROJECT, r'(?m)(^version = ")\d+\.\d+\.\d+', 1),
    (PYPROJECT, r'(to = "mcp_server_jupyter-)\d+\.\d+\.\d+', 1),
    (NAMES, r'(?m)(^version = ")\d+\.\d+\.\d+', 1),
    (NAMES, r'(to = "tk_ai_extension-)\d+\.\d+\.\d+', 1),
    (NAMES, r'("mcp-server-jupyter \(==)\d+\.\d+\.\d+', 1),
    (PACKAGE / "src/mcp_server_jupyter/__init__.py", r'(?m)(^__version__ = ")\d+\.\d+\.\d+', 1),
    (MANIFEST, r'(?m)(^  "version": ")\d+\.\d+\.\d+', 1),
    (NPM_LOCK, r'(?m)(\A\{\n  "name": "mcp-server-jupyter",\n  "version": ")\d+\.\d+\.\d+', 1),
    (NPM_LOCK, r'(    "": \{\n      "name": "mcp-server-jupyter",\n      "version": ")\d+\.\d+\.\d+', 1),
)


class Refused(Exception):
    """Why there is no release; nothing has changed."""


def main(arguments: list[str] | None = None, repository: Path = REPOSITORY) -> int:
    parser = argparse.ArgumentParser(prog="release.py")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("version")
    make.add_argument("--dry-run", action="store_true")
    make.add_argument("--dist", type=Path, default=repository / "dist")
    check = commands.add_parser("check")
    check.add_argument("version")
    assets = commands.add_parser("assets")
    assets.add_argument("version")
    assets.add_argument("dist", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "make":
            release(repository, chosen.version, dist=chosen.dist.resolve(), dry_run=chosen.dry_run)
        elif chosen.command == "check":
            check_version(repository, chosen.version)
        else:
            write_assets(repository, chosen.version, chosen.dist.resolve())
    except Refused as refusal:
        print(f"No release: {refusal}", file=sys.stderr)
        return 1
    return 0


def release(repository: Path, version: str, *, dist: Path, dry_run: bool) -> None:
    refuse(repository, version)
    head = git(repository, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        clone = Path(scratch) / "repository"
        git(repository, "clone", "--quiet", "--no-hardlinks", str(repository), str(clone))
        git(clone, "checkout", "--quiet", "-B", "release", head)
        set_version(clone, version)
        date_changelog(clone, version)
        commit(repository, clone, version)
        run(clone, "bash", ".ci/run")
        built = Path(scratch) / "dist"
        run(clone, "make", "package", f"DIST={built}")
        write_assets(clone, version, built)
        if left := git(clone, "status", "--porcelain"):
            raise Refused(f"the gates or the build changed what git keeps:\n{left}")
        for file in sorted(built.iterdir()):
            print(f"{file.name}  {file.stat().st_size:,} bytes")
        if dry_run:
            print(f"Dry run of {version}: everything passed, nothing has changed.")
            return
        take_over(repository, clone, head, version)
        shutil.copytree(built, dist, dirs_exist_ok=True)
    branch = git(repository, "rev-parse", "--abbrev-ref", "HEAD")
    print(f"Released {version} here. To publish it: git push --atomic origin {branch} v{version}")


def refuse(repository: Path, version: str) -> None:
    if not NUMBER.fullmatch(version):
        raise Refused(f"{version!r} is not a version like 1.2.3.")
    if left := git(repository, "status", "--porcelain"):
        raise Refused(f"the tree is dirty; commit or stash first:\n{left}")
    if git(repository, "tag", "--list", f"v{version}"):
        raise Refused(f"there is a tag v{version} already.")
    current = current_version(repository)
    if numbers(version) < numbers(current):
        raise Refused(f"{version} is lower than {current}, which the tree has.")
    tags = [tag[1:] for tag in git(repository, "tag", "--list", "v*").split() if NUMBER.fullmatch(tag[1:])]
    if newer := [tag for tag in tags if numbers(tag) >= numbers(version)]:
        raise Refused(f"{version} is lower than {max(newer, key=numbers)}, which is released.")
    if not unreleased(repository):
        raise Refused(f'{CHANGELOG} says nothing under "## Unreleased": what will users notice?')


def check_version(repository: Path, version: str) -> None:
    """That every place has this version, and the changelog a section on it."""
    for path, pattern, _ in PLACES:
        found = re.search(pattern, (repository / path).read_text())
        if found is None or found.group() != f"{found.group(1)}{version}":
            raise Refused(f"{path} is not of version {version}.")
    notes(repository, version)


def set_version(repository: Path, version: str) -> None:
    for path, pattern, times in PLACES:
        file = repository / path
        text, count = re.subn(pattern, lambda found: found.group(1) + version, file.read_text())
        if count != times:
            raise Refused(f"{path} has {count} versions where {times} should be.")
        file.write_text(text)
    for name in git(repository, "grep", "-lE", r"mcp-server-jupyter/(server|kernel):[0-9]", missing="").splitlines():
        file = repository / name
        file.write_text(re.sub(IMAGES, rf"\g<1>{version}", file.read_text()))


def current_version(repository: Path) -> str:
    found = re.search(PLACES[0][1] + "", (repository / PYPROJECT).read_text())
    if found is None:
        raise Refused(f"{PYPROJECT} has no version.")
    return found.group()[len(found.group(1)) :]


def unreleased(repository: Path) -> str:
    text = (repository / CHANGELOG).read_text()
    found = re.search(r"(?ms)^## Unreleased\n(.*?)(?=^## |\Z)", text)
    body = found.group(1).strip() if found else ""
    return body if re.search(r"(?m)^\s*[-*] \S", body) else ""


def date_changelog(repository: Path, version: str) -> None:
    file = repository / CHANGELOG
    today = datetime.now(UTC).date().isoformat()
    heading = f"## Unreleased\n\n## {version} - {today}\n"
    file.write_text(re.sub(r"(?m)^## Unreleased\n", lambda _: heading, file.read_text(), count=1))


def notes(repository: Path, version: str) -> str:
    """What the changelog says of one version."""
    heading = rf"(?ms)^## {re.escape(version)}(?: - [\d-]+)?\n(.*?)(?=^## |\Z)"
    found = re.search(heading, (repository / CHANGELOG).read_text())
    if found is None or not found.group(1).strip():
        raise Refused(f"{CHANGELOG} has no section on {version}.")
    return found.group(1).strip() + "\n"


def write_assets(repository: Path, version: str, dist: Path) -> None:
    """What lies beside the packages: the notes, the list of parts, and the sums of all."""
    (dist / "NOTES.md").write_text(notes(repository, version))
    parts = json.dumps(bill_of_materials(repository, version), indent=2, sort_keys=True)
    (dist / f"mcp-server-jupyter-{version}.cdx.json").write_text(f"{parts}\n")
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(dist.iterdir())
        if file.is_file() and file.name != "SHA256SUMS"
    ]
    (dist / "SHA256SUMS").write_text("".join(sums))


def bill_of_materials(repository: Path, version: str) -> dict[str, object]:
    """CycloneDX 1.6: what the packages bring or install, by the requirements that they carry."""
    files = (
        repository / "vscode-extension/python_server/requirements.txt",
        repository / "vscode-extension/scripts/requirements-pip.txt",
    )
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    pinned = sorted({found.groups() for line in lines if (found := re.match(r"([\w.-]+)==([\w.!+-]+)", line))})
    own = f"pkg:generic/mcp-server-jupyter@{version}"
    components = [
        {
            "type": "library",
            "name": name,
            "version": locked,
            "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{locked}",
            "bom-ref": f"pkg:pypi/{name.lower().replace('_', '-')}@{locked}",
        }
        for name, locked in pinned
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "mcp-server-jupyter",
                "version": version,
                "bom-ref": own,
                "licenses": [{"license": {"id": "BSD-3-Clause"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": own, "dependsOn": [part["bom-ref"] for part in components]}],
    }


def commit(repository: Path, clone: Path, version: str) -> None:
    for key in ("user.name", "user.email"):
        if value := git(repository, "config", key, missing=""):
            git(clone, "config", key, value)
    git(clone, "commit", "--quiet", "--all", "--message", f"Release {version}")
    git(clone, "tag", "--annotate", f"v{version}", "--message", f"Release {version}")


def take_over(repository: Path, clone: Path, head: str, version: str) -> None:
    if git(repository, "rev-parse", "HEAD") != head or git(repository, "status", "--porcelain"):
        raise Refused("the repository has changed meanwhile.")
    git(repository, "fetch", "--quiet", "--no-tags", str(clone), "release")
    git(repository, "merge", "--quiet", "--ff-only", "FETCH_HEAD")
    git(repository, "fetch", "--quiet", "--no-tags", str(clone), f"refs/tags/v{version}:refs/tags/v{version}")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def git(repository: Path, *arguments: str, missing: str | None = None) -> str:
    """What git answers; `missing` instead where it finds nothing."""
    done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode == 1 and missing is not None:
        return missing
    if done.returncode:
        raise Refused(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.rstrip("\n")


def run(folder: Path, *command: str) -> None:
    # The clone's own set-up counts, not the caller's: nor what `make` hands on to the `make` below it.
    unwanted = {"VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DIST", "VERSION", "DRY_RUN"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    if subprocess.run(command, cwd=folder, check=False, env=environment, stdin=subprocess.DEVNULL).returncode:
        raise Refused(f"`{' '.join(command)}` failed, see above.")


if __name__ == "__main__":
    sys.exit(main())
