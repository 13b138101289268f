"""Kernelspecs that other Jupyter applications start in pods."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio

from ..errors import InvalidRequest, NotFound
from ..ports import Kernelspec
from ..services import open_backend
from ..settings import Settings

PROVISIONER = "mcp-kubernetes"
_SETTINGS = (
    "namespace",
    "kernel_profiles",
    "kernel_image",
    "kernel_access",
    "schedule_seconds",
    "kubeconfig",
    "instance",
)


def install_kernelspec(settings: Settings, profile: str, name: str, *, sys_prefix: bool) -> str:
    """Write the kernelspec of a profile; where it was written.

    Raises:
        NotFound: there is no such profile.
        InvalidRequest: the name cannot be that of a kernelspec, or the folder cannot be written.
    """
    from jupyter_client.kernelspec import KernelSpecManager  # noqa: PLC0415 - 0.2 s that other commands save

    found = {spec.name: spec for spec in anyio.run(_specs, settings)}
    if profile not in found:
        raise NotFound(f"There is no kernel profile {profile!r}.", hint=f"There are: {', '.join(found)}.")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.json").write_text(json.dumps(_kernelspec(settings, found[profile]), indent=1))
        try:
            return str(
                KernelSpecManager().install_kernel_spec(
                    folder, name, user=not sys_prefix, prefix=sys.prefix if sys_prefix else None
                )
            )
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"The kernelspec {name!r} cannot be written: {error}.") from error


async def _specs(settings: Settings) -> list[Kernelspec]:
    async with open_backend("kernels", "kubernetes", settings) as kernels:
        return list(await kernels.specs())


def _kernelspec(settings: Settings, spec: Kernelspec) -> dict[str, Any]:
    defaults = Settings()
    given = {
        name: str(value) if isinstance(value := getattr(settings, name), Path) else value
        for name in _SETTINGS
        if getattr(settings, name) not in (None, getattr(defaults, name))
    }
    return {
        "argv": list(spec.argv),
        "display_name": spec.display_name,
        "language": spec.language,
        "metadata": {
            "kernel_provisioner": {
                "provisioner_name": PROVISIONER,
                "config": {"profile": spec.name, "settings": given},
            },
            "supported_encryption": "curve",
        },
    }
