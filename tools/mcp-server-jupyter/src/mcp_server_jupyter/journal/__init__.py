"""What outlives the process, in SQLite. Imports ports and errors; used by `execution`, `services` and operations."""

from .agents import AgentRule, Run
from .edits import CALL, REDO, UNDO, EditHead, EditKind, EditRow, new_turn
from .executions import FINISHED, ExecutionRow, LastRun, Status, new_execution_id
from .kernels import Binding, KernelEnd
from .places import Known
from .runs import RUN_ENDED, RunCell, RunRow, RunStatus, new_run_id
from .schema import KernelEventKind
from .standing import PERSON, Stands, Stood
from .store import Journal, open_journal

__all__ = [
    "CALL",
    "FINISHED",
    "PERSON",
    "REDO",
    "RUN_ENDED",
    "UNDO",
    "AgentRule",
    "Binding",
    "EditHead",
    "EditKind",
    "EditRow",
    "ExecutionRow",
    "Journal",
    "KernelEnd",
    "KernelEventKind",
    "Known",
    "LastRun",
    "Run",
    "RunCell",
    "RunRow",
    "RunStatus",
    "Stands",
    "Status",
    "Stood",
    "new_execution_id",
    "new_run_id",
    "new_turn",
    "open_journal",
]
