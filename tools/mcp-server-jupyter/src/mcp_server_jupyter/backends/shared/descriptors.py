"""How many files this process may have open: a kernel takes a dozen, and the usual limit is soon reached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ...errors import Unavailable

# More than anybody needs; some containers allow a thousand times that.
_MOST_DESCRIPTORS, _OPEN_MAX = 1 << 20, 10_240


@contextmanager
def most_descriptors() -> Iterator[int | None]:
    """Let this process open as many files as the system allows, for a while; the soft limit it had, None if none.

    A kernel takes about ten, and the soft limit is 1,024 or, on macOS, 256 by default.
    """
    try:
        # Not there on Windows.
        import resource  # noqa: PLC0415
    except ImportError:
        yield None
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        yield None
        return
    # macOS says infinity and takes no more than its OPEN_MAX.
    for limit in (most, min(most, _OPEN_MAX)):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            break
    try:
        yield soft
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def require_descriptors(count: int) -> None:
    """Look whether so many files could be opened now: what runs out of them halfway is harder to undo.

    Raises:
        Unavailable
    """
    held: list[int] = []
    try:
        held.append(os.open(os.devnull, os.O_RDONLY))
        held += [os.dup(held[0]) for _ in range(count - 1)]
    except OSError as error:
        raise Unavailable(
            f"Another kernel cannot be started: {error.strerror}.",
            hint="Shut a kernel down, or start the server with a higher limit of open files (ulimit -n).",
        ) from error
    finally:
        for descriptor in held:
            os.close(descriptor)
