"""Messages as frames: packed, signed, verified.

Spec: jupyter-client docs, "Messaging in Jupyter", The wire protocol.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ...ports import Channel, Message
from . import big_json

DELIMITER = b"<IDS|MSG>"
PROTOCOL = "5.4"
# Header, parent, metadata, content.
_SIGNED = 4

Decoded = tuple[Message, dict[str, Any]]
"""A message and its parent's header."""


class Codec:
    """The signature and the packing of one kernel's messages.

    Args:
        info: a connection file's content, of which `key` and `signature_scheme` are read. No key: nothing is signed.
        identity: the session that our messages carry.
    """

    def __init__(self, info: Mapping[str, Any], identity: str) -> None:
        # 0.2 s to import: paid by who opens a kernel, while the kernel itself starts.
        from jupyter_client.session import Session  # noqa: PLC0415

        key = info.get("key", b"")
        # Without a key nothing is signed; the session would warn of that.
        self._is_signed = bool(key)
        self._session = Session(
            key=(key if isinstance(key, bytes) else key.encode()) or uuid.uuid4().bytes,
            signature_scheme=info.get("signature_scheme") or "hmac-sha256",
            session=identity,
        )
        self._identity = identity

    def encode(
        self, msg_type: str, content: Mapping[str, Any], *, msg_id: str | None, parent: Mapping[str, Any] | None
    ) -> list[bytes]:
        """One message of ours, ready to be sent."""
        header = {
            "msg_id": msg_id or uuid.uuid4().hex,
            "session": self._identity,
            "username": "mcp-server-jupyter",
            "date": datetime.now(UTC).isoformat(),
            "msg_type": msg_type,
            "version": PROTOCOL,
        }
        pack = self._session.pack
        try:
            packed = pack(content)
        except UnicodeEncodeError:
            # Half a character: no program holds one, so no kernel takes it; in a string its escape means the same.
            packed = pack(_encodable(content))
        frames = [pack(header), pack(parent or {}), b"{}", packed]
        return self.sealed(frames)

    def sealed(self, frames: list[bytes]) -> list[bytes]:
        """A message's frames, from the header on, ready to be sent."""
        return [DELIMITER, self._session.sign(frames[:_SIGNED]) if self._is_signed else b"", *frames]

    def opened(self, frames: list[bytes]) -> list[bytes] | None:
        """The frames of a message from the header on; None for one that is not the kernel's."""
        try:
            signature, *whole = frames[frames.index(DELIMITER) + 1 :]
        except ValueError:
            return None
        if len(whole) < _SIGNED:
            return None
        if self._is_signed and not hmac.compare_digest(signature, self._session.sign(whole[:_SIGNED])):
            return None
        return whole

    def decode(self, channel: Channel, frames: list[bytes]) -> Decoded | None:
        """Verify and unpack; None for one that is not the kernel's. May be called in any thread."""
        whole = self.opened(frames)
        if whole is None:
            return None
        header, parent, metadata, content = whole[:_SIGNED]
        unpack = self._session.unpack
        try:
            head, parent_header = unpack(header), unpack(parent) or {}
            message = Message(
                channel,
                head["msg_type"],
                head["msg_id"],
                parent_header.get("msg_id", ""),
                unpack(content) if len(content) < big_json.SLICE else big_json.loads(content, unpack),
                unpack(metadata) if metadata != b"{}" else {},
                whole[_SIGNED:],
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            # What a stranger, or a broken kernel, sent in place of the protocol's frames.
            return None
        return message, parent_header


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: _encodable(inner) for key, inner in value.items()}
    return [_encodable(inner) for inner in value] if isinstance(value, list) else value
