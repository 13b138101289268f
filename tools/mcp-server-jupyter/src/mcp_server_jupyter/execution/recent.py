"""The executions of this server's life: those that live, and the latest that are done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .execution import Batch, Execution

MOST = 200
MOST_BATCHES = 100
MOST_BYTES = 64 * 2**20


class Recent(Mapping[str, Execution]):
    """Executions by id. Of those that are done the latest used are kept, within limits; the journal has them all.

    Args:
        most: done ones kept.
        most_bytes: bytes of their outputs kept; the latest is kept whatever its size.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._live: dict[str, Execution] = {}
        self._done: dict[str, int] = {}
        self._by_id: dict[str, Execution] = {}
        self._by_request: dict[str, Execution] = {}
        self._of_cell: dict[tuple[str | None, str], Execution] = {}
        self.batches: dict[str, Batch] = {}

    def __getitem__(self, execution_id: str) -> Execution:
        return self._by_id[execution_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def live(self) -> tuple[Execution, ...]:
        """Those that are not done, in the order they came."""
        return tuple(self._live.values())

    def remember(self, batch: Batch) -> None:
        """Keep a batch, of which something was submitted; the oldest makes room."""
        self.batches[batch.id] = batch
        if len(self.batches) > MOST_BATCHES:
            del self.batches[next(iter(self.batches))]

    def of_request(self, msg_id: str) -> Execution | None:
        """The execution whose request a kernel's message names."""
        return self._by_request.get(msg_id)

    def of_cell(self, notebook: str, cell_id: str) -> Execution | None:
        """The latest execution of a cell."""
        return self._of_cell.get((notebook, cell_id))

    def add(self, execution: Execution) -> None:
        """Take up one that begins; its cell is its own from now on."""
        self._live[execution.id] = self._by_id[execution.id] = execution
        self._by_request[execution.msg_id] = execution
        if execution.cell_id is not None:
            key = execution.notebook, execution.cell_id
            before = self._of_cell.get(key)
            if before is not None:
                before.superseded = True
            self._of_cell[key] = execution

    def renamed(self, notebook: str, to: str) -> None:
        """A notebook has another path: its executions are that one's, and their outputs go there."""
        for key, execution in [(key, each) for key, each in self._of_cell.items() if key[0] == notebook]:
            del self._of_cell[key]
            self._of_cell[to, key[1]] = execution
        for execution in self._by_id.values():
            if execution.notebook == notebook:
                execution.notebook, execution.sink = to, None
            if execution.home == notebook:
                execution.home = to

    def recall(self, execution: Execution) -> None:
        """Take back one that was forgotten, or that an earlier server ran."""
        self._by_id[execution.id] = execution
        self._by_request[execution.msg_id] = execution
        if execution.cell_id is not None:
            latest = self._of_cell.setdefault((execution.notebook, execution.cell_id), execution)
            execution.superseded = execution.superseded or latest is not execution
        self.done(execution)

    def done(self, execution: Execution) -> None:
        """Note that one is done, or that its outputs have grown after that; the oldest make room."""
        self._live.pop(execution.id, None)
        self._bytes -= self._done.pop(execution.id, 0)
        size = execution.reducer.size + len(execution.code)
        self._done[execution.id] = size
        self._bytes += size
        while len(self._done) > self._most or (self._bytes > self._most_bytes and len(self._done) > 1):
            self._forget(next(iter(self._done)))

    def _forget(self, execution_id: str) -> None:
        self._bytes -= self._done.pop(execution_id)
        execution = self._by_id.pop(execution_id)
        self._by_request.pop(execution.msg_id, None)
        key = execution.notebook, execution.cell_id or ""
        if self._of_cell.get(key) is execution:
            del self._of_cell[key]
