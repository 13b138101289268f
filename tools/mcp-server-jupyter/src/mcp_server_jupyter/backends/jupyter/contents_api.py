"""A Jupyter's files over its REST API, with refusals that name the file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from anyio.to_thread import run_sync

from ...errors import InvalidNotebook, InvalidRequest, JupyterMcpError, NotFound, TooLarge
from .client import Client, quoted
from .rooms.connection import Address, find_room

INLINE_BYTES = 256 * 1024
_BYTES_A_SECOND = 500_000
_SECONDS = 30.0

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """What Jupyter says of a file without its content. `version` is another one after every write, as far as it can
    be told: the hash of the file, or the time of its change where the server has none."""

    version: str
    size: int
    is_writable: bool


class ContentsApi:
    """The notebooks and folders of one Jupyter.

    Args:
        limit: bytes of the biggest notebook that is read or written.
    """

    def __init__(self, client: Client, limit: int) -> None:
        self.client = client
        self._limit = limit

    async def __aenter__(self) -> ContentsApi:
        await self.client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.__aexit__(kind, error, trace)

    # ------------------------------------------------------------------ what Jupyter is asked

    async def find_room(self, name: str) -> Address | None:
        """See `rooms.connection.find_room`."""
        return await find_room(self.client, name)

    async def _model(self, name: str, seconds: float | None = None, **params: str) -> Json:
        """What Jupyter has at a path, with its parameters as its REST API spells them."""
        data = await self.client.exchange("GET", _path(name), params=params, seconds=seconds or _SECONDS)
        model: Json = json.loads(data) if len(data) < INLINE_BYTES else await run_sync(json.loads, data)
        return model

    async def _write(self, name: str, data: bytes) -> None:
        await self.client.exchange("PUT", _path(name), data, seconds=_seconds(len(data)))

    async def _make_folder(self, name: str) -> None:
        await self.client.call("PUT", _path(name), {"type": "directory"})

    async def _delete(self, name: str) -> None:
        await self.client.call("DELETE", _path(name))

    # ------------------------------------------------------------------ what it means

    async def state(self, name: str) -> State:
        """A notebook as it is now.

        Raises:
            NotFound, InvalidNotebook, Unavailable, Unauthorized
        """
        try:
            return _state(await self._model(name, content="0", hash="1", type="notebook"))
        except NotFound as error:
            raise _absent(name) from error
        except InvalidRequest as error:
            raise InvalidNotebook(str(error), hint="Name another file.") from error

    async def load(self, name: str) -> tuple[Json, State]:
        """Its content.

        Raises:
            NotFound, TooLarge, InvalidNotebook, Unavailable, Unauthorized
        """
        size = (await self.state(name)).size
        self._check_size(name, size)
        try:
            model = await self._model(name, _seconds(size), content="1", hash="1", type="notebook")
        except NotFound as error:
            raise _absent(name) from error
        except InvalidRequest as error:
            raise InvalidNotebook(
                f"Jupyter cannot read {name!r}: {error.message}", hint="Repair it by hand, or restore a checkpoint."
            ) from error
        content = model.get("content")
        if not isinstance(content, dict):
            raise InvalidNotebook(f"{name!r} is no notebook.", hint="Name another file.")
        return content, _state(model)

    async def put(self, name: str, data: bytes) -> None:
        """Write a notebook, whatever is there.

        Raises:
            TooLarge, InvalidRequest, Unavailable, Unauthorized
        """
        self._check_size(name, len(data))
        await self._write(name, data)

    async def folder(self, name: str) -> list[Json]:
        """What is in a folder, "" for the root.

        Raises:
            NotFound, InvalidRequest, Unavailable, Unauthorized
        """
        try:
            model = await self._model(name, content="1", type="directory")
        except NotFound as error:
            raise NotFound(f"There is no folder {name!r}.", hint="List the root for those there are.") from error
        except InvalidRequest as error:
            raise InvalidRequest(f"{name!r} is a file.", hint="Name a folder.") from error
        return [each for each in model["content"] if isinstance(each, dict)]

    async def is_there(self, name: str) -> bool:
        """Whether anything has this path."""
        try:
            await self._model(name, content="0")
        except NotFound:
            return False
        return True

    @contextlib.asynccontextmanager
    async def folders(self, name: str) -> AsyncIterator[None]:
        """Make the folders that a file needs; where the body raises, those are taken back."""
        missing, made = [], []
        folder = name.rpartition("/")[0]
        while folder and not await self.is_there(folder):
            missing.append(folder)
            folder = folder.rpartition("/")[0]
        try:
            for each in reversed(missing):
                await self._make_folder(each)
                made.append(each)
            yield
        except JupyterMcpError:
            # One that is not empty stays.
            with contextlib.suppress(JupyterMcpError):
                for each in reversed(made):
                    await self._delete(each)
            raise

    def _check_size(self, name: str, size: int) -> None:
        if size > self._limit:
            raise TooLarge(
                f"{name!r} has {size:,} bytes, more than the limit of {self._limit:,}.",
                hint="Clear outputs, or raise the setting max_notebook_bytes.",
            )


def notebook_body(content: Json) -> bytes:
    """What is put for a notebook. Half characters, which Jupyter cannot write, are shown as such (U+FFFD)."""
    text = json.dumps({"type": "notebook", "format": "json", "content": content}, ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _path(name: str) -> str:
    return f"api/contents/{quoted(name)}"


def _absent(name: str) -> NotFound:
    return NotFound(f"There is no notebook {name!r}.", hint="List the notebooks, or create it.")


def _state(model: Json) -> State:
    version = model.get("hash") or model.get("last_modified") or ""
    return State(str(version), model.get("size") or 0, model.get("writable") is not False)


def _seconds(size: int) -> float:
    return _SECONDS + size / _BYTES_A_SECOND
