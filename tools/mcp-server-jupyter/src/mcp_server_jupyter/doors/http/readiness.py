"""Whether the server can do its work: what a readiness probe is told."""

from __future__ import annotations

import tempfile
from pathlib import Path


def unready(state: Path) -> list[str]:
    """Why no work can be done, one sentence a reason; nothing when it can. Blocks for as long as the disk does.

    Paths are left out, for the probe needs no token.
    """
    reasons = []
    if not _writable(None):
        reasons.append("There is no writable temporary directory: set TMPDIR to one, or mount one at /tmp.")
    if not _writable(state):
        reasons.append("The state directory cannot be written: free disk space, or give another --state-dir.")
    return reasons


def _writable(folder: Path | None) -> bool:
    """Whether a file can be made and written in a folder (None: where temporary files go)."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"ready")
    except OSError:
        return False
    return True
