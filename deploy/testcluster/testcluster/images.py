"""Container images without a registry.

The base image is made from Debian packages and answers to the name our
Dockerfiles use; buildah builds on it, in a store of its own; containerd is
given the result as an archive.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

from testcluster.build import programs
from testcluster.components import containerd_socket
from testcluster.config import BASE_IMAGE, COREDNS_IMAGE, PAUSE_IMAGE, SOURCE, Paths
from testcluster.shell import CommandFailed, Refusal, alone, follow, run, say, tail

BASE_SUITE = "bookworm"
BASE_PACKAGES = (
    *("ca-certificates", "netbase", "tzdata"),
    *("python3", "python3-distutils", "python3-lib2to3", "python3-venv"),
    *("python3-pip-whl", "python3-setuptools-whl", "python3-wheel-whl"),
)
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
_FINISH_BASE = SOURCE / "base-image.sh"
_SCRATCH = "scratch-"


def ensure(paths: Paths) -> list[Path]:
    """The archives every cluster starts with, made where the cache lacks them."""
    with _store(paths):
        paths.images.mkdir(parents=True, exist_ok=True)
        built = programs(paths)
        pause = _single_program(paths, PAUSE_IMAGE, built["pause"], {"Entrypoint": ["/pause"], "User": "65535:65535"})
        coredns = _single_program(paths, COREDNS_IMAGE, built["coredns"], {"Entrypoint": ["/coredns"]})
        return [pause, coredns, _base(paths)]


def _store(paths: Paths) -> AbstractContextManager[None]:
    """One at a time: buildah's processes do not see each other's mounts, and clear away each other's containers."""
    return alone(paths.cache / "images.lock", "waiting for another build of an image to finish")


def leftovers(paths: Paths) -> list[Path]:
    """What a command that was killed left in the cache."""
    return sorted([*paths.cache.glob(f"{_SCRATCH}*"), *paths.images.glob("*.new")])


def tidy(paths: Paths) -> None:
    """Remove what killed commands left in the cache: scratch directories, half archives, containers of builds."""
    with _store(paths):
        for left in leftovers(paths):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        if paths.buildah.exists() and shutil.which("buildah"):
            run(*_buildah(paths), "rm", "--all")


def _scratch(paths: Paths) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=paths.cache, prefix=_SCRATCH)


def import_archive(paths: Paths, archive: Path) -> None:
    """Give containerd the images in an archive."""
    run("ctr", "--address", containerd_socket(paths), "-n", "k8s.io", "images", "import", archive)


def load(paths: Paths, image: str) -> None:
    """Load an archive, or an image of our store or of a Docker engine here, into the node."""
    if Path(image).is_file():
        import_archive(paths, Path(image))
        return
    with _store(paths):
        _load(paths, image)


def _load(paths: Paths, image: str) -> None:
    with _scratch(paths) as scratch:
        archive = Path(scratch) / "image.tar"
        if not _save(paths, image, archive):
            raise Refusal(
                f"no image {image} in this cluster's store (make one with the build command), none in a Docker engine,"
                " and no archive of that name"
            )
        import_archive(paths, archive)


def build(paths: Paths, tag: str, context: Path, dockerfile: Path | None) -> None:
    """Build a Dockerfile with buildah and load the result."""
    with _store(paths):
        _build(paths, tag, context, dockerfile)
        _load(paths, tag)


def build_archive(paths: Paths, tag: str, context: Path, dockerfile: Path, archive: Path) -> None:
    """Build a Dockerfile with buildah into an archive that a Docker engine loads."""
    with _store(paths):
        _build(paths, tag, context, dockerfile)
        archive.unlink(missing_ok=True)
        if not _save(paths, tag, archive):
            raise Refusal(f"{tag} was built and cannot be saved")


def _build(paths: Paths, tag: str, context: Path, dockerfile: Path | None) -> None:
    _base_into_store(paths)
    mounts: list[str | Path] = []
    # A build reaches the package registries the way this machine does.
    for shared in ("/etc/ssl/certs", "/etc/pip.conf"):
        if Path(shared).exists():
            mounts += ["--volume", f"{shared}:{shared}:ro"]
    log = paths.cache / "build-image.log"
    started = time.monotonic()
    run(*_buildah(paths), "rm", "--all")  # what a build that failed left
    with _scratch(paths) as scratch:
        recipe = Path(scratch) / "Dockerfile"
        recipe.write_text(without_cache_mounts((dockerfile or context / "Dockerfile").read_text()))
        command: list[str | Path] = [
            *(*_buildah(paths), "build", "--pull-never", "--network", "host", "--isolation", "chroot"),
            *("--format", "docker", "--layers", "--tag", tag, "--file", recipe, *mounts, context),
        ]
        follow(command, log, lambda: f"building {tag}: {tail(log, 1).strip()}")
    say(f"built {tag} in {time.monotonic() - started:.0f} s")


def without_cache_mounts(dockerfile: str) -> str:
    """Take out cache mounts, which change no result; refuse the other kinds.

    Debian's buildah empties the image's root when it clears such a mount away.
    """
    text = re.sub(r"--mount=type=cache[^\s]*\s+", "", dockerfile)
    if found := re.search(r"^\s*RUN\s.*(--mount=\S+)", text, re.MULTILINE):
        raise Refusal(f"{found[1]} in the Dockerfile cannot be built here: of RUN's mounts only type=cache can")
    return text


def _save(paths: Paths, image: str, archive: Path) -> bool:
    try:
        if paths.buildah.exists():
            run(*_buildah(paths), "push", "--quiet", image, f"docker-archive:{archive}:{_with_tag(image)}")
            return True
    except CommandFailed as error:
        if "not known" not in str(error):
            raise
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "save", "-o", archive, image], capture_output=True, check=False).returncode == 0


def _with_tag(image: str) -> str:
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def _buildah(paths: Paths) -> list[str | Path]:
    """buildah with a store of its own, in a mount namespace: what it mounts is gone when it ends."""
    store, running = paths.buildah / "root", paths.buildah / "run"
    running.mkdir(parents=True, exist_ok=True)
    script = 'mount -t tmpfs tmpfs "$0" && exec buildah "$@"'
    isolated: list[str | Path] = ["unshare", "--mount", "--propagation", "slave", "sh", "-ec", script, running]
    return [*isolated, "--root", store, "--runroot", running, "--storage-driver", "overlay"]


def _base_into_store(paths: Paths) -> None:
    archive = _base(paths)
    mark = paths.buildah / "base"
    if mark.exists() and mark.read_text() == archive.name:
        return
    run(*_buildah(paths), "pull", "--quiet", f"docker-archive:{archive}")
    mark.write_text(archive.name)


def _base(paths: Paths) -> Path:
    recipe = repr((BASE_IMAGE, BASE_SUITE, BASE_PACKAGES, _FINISH_BASE.read_text()))
    archive = paths.images / f"base-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}.tar"
    if archive.exists():
        return archive
    started = time.monotonic()
    paths.images.mkdir(parents=True, exist_ok=True)
    with _scratch(paths) as scratch:
        root, layer, log = Path(scratch) / "root", Path(scratch) / "layer.tar", paths.images / "base.log"
        say(f"making {BASE_IMAGE} from Debian packages (log: {log})")
        # In a mount namespace, so that what debootstrap mounts is gone when it ends.
        command = ["unshare", "--mount", "nice", "-n", "10", "debootstrap", "--variant=minbase"]
        command += [f"--include={','.join(BASE_PACKAGES)}", BASE_SUITE, str(root), *_mirror()]
        follow(command, log, lambda: f"base image: {tail(log, 1).strip()}")
        run("unshare", "--mount", "sh", "-e", _FINISH_BASE, root)
        run("tar", "--one-file-system", "--numeric-owner", "-C", root, "-cf", layer, ".")
        _write_archive(archive, BASE_IMAGE, layer, {"Cmd": ["python3"], "Env": [f"PATH={_PATH}", "LANG=C.UTF-8"]})
    say(f"{BASE_IMAGE}: made in {time.monotonic() - started:.0f} s, {archive.stat().st_size >> 20} MiB")
    return archive


def _mirror() -> list[str]:
    """The mirror apt uses for the suite, so that no second one need be reachable."""
    if not shutil.which("apt-get"):
        return []
    wanted = (f"Codename: {BASE_SUITE}", "Component: main", "Created-By: Packages")
    return run("apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted).split()[:1]


def _single_program(paths: Paths, image: str, program: Path, config: dict[str, object]) -> Path:
    archive = paths.images / f"{program.parent.name}.tar"
    if not archive.exists():
        with _scratch(paths) as scratch:
            layer = Path(scratch) / "layer.tar"
            with tarfile.open(layer, "w") as tar:
                entry = tarfile.TarInfo(program.name)
                entry.mode, entry.size = 0o755, program.stat().st_size
                with program.open("rb") as stream:
                    tar.addfile(entry, stream)
            _write_archive(archive, image, layer, config)
    return archive


def _write_archive(archive: Path, image: str, layer: Path, config: dict[str, object]) -> None:
    """Write the archive format that ``docker save`` writes, of one layer."""
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    described = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "testcluster"}],
    }
    text = json.dumps(described).encode()
    name = hashlib.sha256(text).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": [image], "Layers": [f"{digest}/layer.tar"]}]
    unfinished = archive.with_suffix(".new")
    with tarfile.open(unfinished, "w") as tar:
        for path, content in ((name, text), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        tar.add(layer, arcname=f"{digest}/layer.tar")
    unfinished.rename(archive)
