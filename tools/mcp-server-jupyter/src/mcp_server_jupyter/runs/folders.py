"""The folder of a run: the notebook as it was sent, the one that is executed, and what its code writes beside them."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..notebooks import node

if TYPE_CHECKING:
    from nbformat import NotebookNode

SENT, EXECUTED = "sent.ipynb", "notebook.ipynb"


class Folders:
    """The folders of all runs, at or below the root that their services work in. Blocking: for threads.

    Args:
        root: the services'.
        below: where under it the folders are.
        kernels_in: the folder under the root that kernels run in; None, each in the folder of its run.
    """

    def __init__(self, root: Path, *, below: str = "", kernels_in: str | None = None) -> None:
        self.root = root / below
        self._below = below
        self._kernels_in = kernels_in

    def of(self, run_id: str) -> Path:
        return self.root / run_id

    def path(self, run_id: str) -> str:
        """The executed notebook, as the contents name it."""
        return posixpath.join(self._below, run_id, EXECUTED)

    def cwd(self, run_id: str) -> str:
        """The folder that its kernel runs in, relative to the services' root."""
        return posixpath.join(self._below, run_id) if self._kernels_in is None else self._kernels_in

    def make(self, run_id: str, sent: NotebookNode, executed: NotebookNode) -> None:
        """Write both notebooks, so that they outlive the process.

        Raises:
            OSError: they cannot be written; nothing is left.
        """
        folder = self.of(run_id)
        try:
            folder.mkdir(mode=0o700)
            for name, notebook in ((SENT, sent), (EXECUTED, executed)):
                self._write(folder / name, notebook)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def replace_sent(self, run_id: str, sent: NotebookNode) -> None:
        """Another notebook takes the place of the one that was sent, whole or not at all."""
        new = self.of(run_id) / f"{SENT}.new"
        self._write(new, sent)
        new.replace(self.of(run_id) / SENT)

    def sent(self, run_id: str) -> NotebookNode:
        """The notebook as it was sent.

        Raises:
            OSError, ValueError: it is not there, or damaged.
        """
        return node(json.loads((self.of(run_id) / SENT).read_bytes()))

    def executed(self, run_id: str) -> bytes:
        """The file of the executed notebook.

        Raises:
            OSError: it is not there.
        """
        return (self.of(run_id) / EXECUTED).read_bytes()

    def size(self, run_id: str) -> int:
        """Bytes of all that is in it."""
        found = 0
        for folder, _, names in os.walk(self.of(run_id)):
            for name in names:
                try:
                    found += os.lstat(os.path.join(folder, name)).st_size
                except OSError:
                    continue
        return found

    def remove(self, run_id: str) -> None:
        shutil.rmtree(self.of(run_id), ignore_errors=True)

    def strange(self, known: set[str]) -> Iterator[str]:
        """Folders of no known run: of a request that was never accepted, or of a run that is forgotten."""
        for entry in os.scandir(self.root):
            if entry.is_dir(follow_symlinks=False) and entry.name not in known and _is_ours(entry.name):
                yield entry.name

    @staticmethod
    def _write(path: Path, notebook: Any) -> None:
        with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
            json.dump(notebook, file, ensure_ascii=True, indent=1)
            file.flush()
            os.fsync(file.fileno())


def _is_ours(name: str) -> bool:
    head, _, tail = name.partition("-")
    return len(head) == 11 and len(tail) == 12 and all(digit in "0123456789abcdef" for digit in head + tail)
