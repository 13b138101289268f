"""The bearer token of the HTTP doors, which is the user's: one for all roots of a state directory."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from .errors import InvalidRequest
from .ownership import write_private
from .settings import Settings
from .values import PREFIX

logger = logging.getLogger(__name__)

TOKEN = "token"


def load_token(settings: Settings) -> str | None:
    """The bearer token of the HTTP doors: the one set, else the one kept in the state directory, made if need be.

    Raises:
        InvalidRequest: the one that is kept cannot be read, or none can be kept.
    """
    if settings.no_auth:
        return None
    if settings.token:
        return settings.token
    path = settings.state_dir / TOKEN
    try:
        kept = _kept_token(path)
        if kept:
            return kept
        token = secrets.token_urlsafe(32)
        write_private(path, token)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"The token cannot be kept in {path}: {getattr(error, 'strerror', None) or 'it is no text'}.",
            hint=f"Give one by {PREFIX}TOKEN or --token (from a Secret, in a cluster), or remove that file.",
        ) from error
    return token


def client_token(token: str) -> str:
    """The token of MCP clients: it opens `/mcp` and nothing else. Made from the whole server's, so nothing is kept."""
    import hmac  # noqa: PLC0415 - 2 ms that only doors over HTTP need

    return hmac.new(token.encode(), b"mcp-server-jupyter: /mcp", "sha256").hexdigest()


def _kept_token(path: Path) -> str:
    try:
        kept = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    if len(kept) < 32:
        return ""
    try:
        # A volume's group (`fsGroup` in a cluster) widens the modes of what is on it with every start.
        path.chmod(0o600)
    except PermissionError:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            logger.warning(
                "the token in %s may be read by others (mode %o) and belongs to another user: give one by %sTOKEN",
                path,
                mode,
                PREFIX,
            )
    return kept
