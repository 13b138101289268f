"""What Jupyter's managers raise, as our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.multikernelmanager import DuplicateKernelError
from tornado.web import HTTPError

from ....errors import AlreadyExists, JupyterMcpError, NotFound, Unavailable, Unsupported
from ..client import kind_of

_HINT = "Jupyter's log says more."


@contextmanager
def plain_refusals() -> Iterator[None]:
    """Translate them.

    Raises:
        NotFound, AlreadyExists, InvalidRequest, TooLarge, Unsupported: as they say.
        Unavailable: it failed.
    """
    try:
        yield
    except JupyterMcpError:
        raise
    except HTTPError as error:
        said = (error.get_message() or error.reason or "").rstrip(".")
        raise kind_of(error.status_code)(
            f"Jupyter answers {error.status_code}{f': {said}' if said else ''}."
        ) from error
    except NoSuchKernel as error:
        raise Unsupported(f"Jupyter has no kernelspec {error.name!r}.") from error
    except DuplicateKernelError as error:
        raise AlreadyExists(f"{error}.") from error
    except KeyError as error:
        # Managers look things up by their ids.
        raise NotFound(f"Jupyter does not know {error}.") from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise Unavailable(f"Jupyter failed: {error or type(error).__name__}.", hint=_HINT) from error
