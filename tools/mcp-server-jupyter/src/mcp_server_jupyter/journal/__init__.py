"""What outlives the process, in SQLite. Imports ports and errors; used by `execution`, `services` and operations."""

from .edits import EditKind, EditRow
from .executions import FINISHED, ExecutionRow, LastRun, Status, new_execution_id
from .kernels import Binding, KernelEnd
from .schema import KernelEventKind
from .store import Journal, open_journal

__all__ = [
    "FINISHED",
    "Binding",
    "EditKind",
    "EditRow",
    "ExecutionRow",
    "Journal",
    "KernelEnd",
    "KernelEventKind",
    "LastRun",
    "Status",
    "new_execution_id",
    "open_journal",
]
