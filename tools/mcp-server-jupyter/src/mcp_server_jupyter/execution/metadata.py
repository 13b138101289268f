"""What runs leave in a notebook's own metadata: the language they ran in, and the state of their widgets."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from ..errors import JupyterMcpError, KernelDead, NotFound
from ..notebooks import node, shallow
from ..outputs import STATE_MIME, WidgetModel, WidgetModels, models_in, reachable, saved_state, views_in
from ..ports import Contents, Kernel
from .execution import Execution
from .recent import Recent
from .session import Session

if TYPE_CHECKING:
    from nbformat import NotebookNode

MOST_BYTES = 10 * 2**20
"""Of the widgets' state of one kernel: it is written with the notebook again and again."""
_ANSWER_SECONDS = 3.0

Process = tuple[str, int]


class RunMetadata:
    """Follows the widgets of kernels, and writes down what nbclient does after a run."""

    def __init__(self, contents: Contents, recent: Recent, max_bytes: int = MOST_BYTES) -> None:
        self._contents = contents
        self._recent = recent
        self._max_bytes = max_bytes
        self._widgets: dict[Process, WidgetModels] = {}
        # Kernels of an earlier server, whose widgets their notebooks know.
        self._adopted: dict[Process, str] = {}
        self._languages: dict[Process, dict[str, Any] | None] = {}
        self._saved: dict[Process, dict[str, int]] = {}

    def adopted(self, session: Session) -> None:
        """Take the state of a kernel's widgets, once it is needed, from where the earlier server wrote it."""
        if session.notebook is not None:
            self._adopted[session.kernel.id, session.kernel.epoch] = session.notebook

    async def widgets(self, process: Process) -> WidgetModels:
        """The widgets of a kernel's process: its id and its epoch."""
        if process not in self._widgets:
            self._widgets[process] = WidgetModels(max_bytes=self._max_bytes)
        models = self._widgets[process]
        notebook = self._adopted.pop(process, None)
        if notebook is not None:
            with suppress(JupyterMcpError):
                models.restore(models_in((await self._contents.read(notebook)).metadata))
        return models

    def known(self, kernel: Kernel) -> WidgetModels | None:
        """The widgets of a kernel's process, if it has told of any."""
        return self._widgets.get((kernel.id, kernel.epoch))

    def forget(self, process: Process) -> None:
        """A kernel's process has ended."""
        for kept in (self._widgets, self._adopted, self._languages, self._saved):
            kept.pop(process, None)

    # ------------------------------------------------------------------ after a run

    async def sync(self, execution: Execution) -> None:
        """Tell the kernel what its Output widgets have captured, as a front end does: later code may read it."""
        for model_id, outputs in execution.widgets.take_unsynced().items():
            data = {"method": "update", "state": {"outputs": outputs}, "buffer_paths": []}
            content = {"comm_id": model_id, "data": data}
            with anyio.move_on_after(_ANSWER_SECONDS):
                async for _ in execution.kernel.request("comm_msg", content):
                    pass

    async def write(self, execution: Execution) -> None:
        """Bring the notebook's metadata up to date, if they are not, after a run in it."""
        path = execution.notebook or execution.home
        if path is None:
            return
        changed: dict[str, Any] = {}
        if execution.notebook is not None and execution.status in ("ok", "error"):
            changed["language_info"] = await self._language(execution)
        process = execution.kernel.id, execution.kernel_epoch
        version = execution.widgets.version
        has_widgets = version != self._saved.get(process, {}).get(path, 0)
        if not has_widgets and not changed:
            # A notebook on another machine is not read for nothing.
            return
        try:
            notebook = await self._contents.read(path)
            if has_widgets:
                changed["widgets"] = self._state(notebook, path, execution)
            if self._differences(notebook, changed):
                async with self._contents.edit(path, durable=False) as notebook:
                    if has_widgets:
                        changed["widgets"] = self._state(notebook, path, execution)
                    notebook["metadata"] = shallow(notebook.metadata, **self._differences(notebook, changed))
        except NotFound:
            return
        except JupyterMcpError as error:
            execution.add_note(f"The notebook's metadata do not hold what the run changed in them: {error.message}")
            return
        if has_widgets and process in self._widgets:
            self._saved.setdefault(process, {})[path] = version

    @staticmethod
    def _differences(notebook: NotebookNode, changed: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in changed.items() if value and notebook.metadata.get(key) != value}

    async def _language(self, execution: Execution) -> dict[str, Any] | None:
        """The `language_info` of the process a run was in, asked for once; None if that is gone or does not tell."""
        kernel, process = execution.kernel, (execution.kernel.id, execution.kernel_epoch)
        if process in self._languages or kernel.epoch != execution.kernel_epoch:
            return self._languages.get(process)
        told: dict[str, Any] | None = None
        self._languages[process] = told
        with anyio.move_on_after(_ANSWER_SECONDS), suppress(KernelDead):
            async for message in kernel.request("kernel_info_request", {}):
                info = message.content.get("language_info") if message.channel == "shell" else None
                if isinstance(info, dict):
                    told = info
        if process in self._languages:
            # Else the process has ended meanwhile, and is forgotten.
            self._languages[process] = told
        return told

    def _state(self, notebook: NotebookNode, path: str, execution: Execution) -> NotebookNode | None:
        """The widgets to keep: what the latest runs of the notebook's cells made, and what its outputs show."""
        models = execution.widgets
        cells = {str(cell.get("id")) for cell in notebook.cells}
        current = {model_id for model_id, model in models.items() if self._is_current(model, path, cells)}
        stored = {key: model for key, model in models_in(notebook.metadata).items() if key not in models}
        together = {**stored, **models}
        kept = current | reachable(together, views_in(notebook.cells) | current)
        if not kept:
            return None
        state = saved_state({model_id: model for model_id, model in together.items() if model_id in kept})
        lost = sum(models[model_id].lost for model_id in kept if model_id in models)
        if lost or models.forgotten:
            what = f"{lost:,} bytes of state" if lost else f"{models.forgotten:,} older ones"
            execution.add_note(f"Of the widgets {what} were not kept: the limit is {self._max_bytes:,} bytes.")
        return node({STATE_MIME: state})

    def _is_current(self, model: WidgetModel, path: str, cells: set[str]) -> bool:
        opener = self._recent.of_request(model.opened_by)
        if opener is None or opener.superseded or opener.notebook != path:
            return False
        return opener.cell_id is not None and opener.cell_id in cells
