"""How cells and executions read: one header line, then the text, within the budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from ..execution.execution import Execution
from ..journal import ExecutionRow
from ..notebooks import source_hash
from ..outputs import MOST_BASE64, is_heavy, models_in, page, readable, strip_ansi, view, views_in
from .call import Answer, Answers, Call, Link, Picture
from .uris import output_uri

if TYPE_CHECKING:
    from nbformat import NotebookNode


def cell_header(index: int, cell: NotebookNode, note: str = "") -> str:
    """`[3] code id=ab12 hash=9f86d081884c In[5]`"""
    parts = [f"[{index}]", cell.cell_type, f"id={cell['id']}", f"hash={source_hash(cell)}"]
    if cell.get("execution_count") is not None:
        parts.append(f"In[{cell.execution_count}]")
    if note:
        parts.append(note)
    return " ".join(parts)


def cell_data(index: int, cell: NotebookNode) -> dict[str, Any]:
    return {
        "cell_index": index,
        "cell_id": cell["id"],
        "cell_type": cell.cell_type,
        "hash": source_hash(cell),
    }


def edited(index: int, cell: NotebookNode, what: str, handle: str) -> Answer:
    """The answer of an edit: where the cell is now, its hash for the next edit, and what takes it back."""
    return Answer(f"{what} {cell_header(index, cell)}{takes_back(handle)}", {**cell_data(index, cell), "edit": handle})


def takes_back(handle: str) -> str:
    """The call that undoes one edit."""
    return f' undo(turn="{handle}")'


async def add_outputs(
    answer: Answer,
    outputs: Sequence[Any],
    answers: Answers,
    more: Callable[[int], str],
    budget: int,
    before: Sequence[Picture] = (),
) -> bool:
    """Append a bounded view of outputs to an answer. True when something was left out.

    Args:
        before: images of the whole answer that come before those of this part of it.
    """
    earlier = [*before, *answer.images]
    look = partial(
        view,
        outputs,
        max_chars=max(200, budget),
        max_images=max(0, answers.max_images - len(earlier)),
        max_image_bytes=answers.max_image_bytes,
        more=more,
        numbered=len(earlier),
        max_base64=MOST_BASE64 - sum(len(image.data) for image in earlier),
    )
    heavy = is_heavy(outputs, max_image_bytes=answers.max_image_bytes)
    seen = await anyio.to_thread.run_sync(look) if heavy else look()
    if seen.text:
        answer.text += f"\n{seen.text}"
    answer.images += [Picture(image.data_b64, image.mime) for image in seen.images]
    return seen.truncated


def cell_outputs(call: Call, notebook: NotebookNode, path: str, cell: NotebookNode) -> Sequence[Any]:
    """A cell's outputs, with what widgets among them show: now where their kernel runs, else when it was last saved."""
    outputs: Sequence[Any] = cell.get("outputs", [])
    if not views_in([cell]):
        return outputs
    session = call.services.sessions.find(path)
    live = None if session is None else call.services.executions.widgets(session)
    return readable(outputs, {**models_in(notebook.metadata), **(live or {})})


async def output_page(outputs: Sequence[Any], cursor: int, answers: Answers) -> tuple[Answer, int | None]:
    """The text and the images of outputs from `cursor` on, and the next page's cursor or None at the end."""
    look = partial(
        page,
        outputs,
        cursor,
        max_chars=answers.max_chars - 200,
        max_images=answers.max_images,
        max_image_bytes=answers.max_image_bytes,
    )
    text, images, following = await anyio.to_thread.run_sync(look)
    return Answer(text, images=[Picture(image.data_b64, image.mime) for image in images]), following


def pages_of(execution_id: str) -> Callable[[int], str]:
    """The call that shows an execution's text from a cursor on."""
    return lambda cursor: f'get_execution(execution_id="{execution_id}", cursor={cursor})'


async def executed(
    execution: Execution,
    answers: Answers,
    *,
    index: int | None = None,
    is_new: bool = False,
    before: Sequence[Picture] = (),
) -> Answer:
    """The answer of an execution: one status line, the outputs, and how to go on if it is not done.

    Args:
        is_new: whether its cell was made for it: then its hash is told, for the next edit.
        before: images of the whole answer, of which this is a part, that come before its own.
    """
    cell = f"[{index}] id={execution.cell_id} " if index is not None else ""
    seen = f"hash={_hash(execution)} " if is_new else ""
    status = _status(execution.status, execution.reducer.execution_count, execution.seconds, execution.kernel_epoch)
    answer = Answer(f"{cell}{seen}{status}", execution_data(execution, index))
    for text in (execution.note, *execution.warnings.values(), _unreachable(execution), _behind_others(execution)):
        if text:
            answer.text += f"\n! {text}"
    outputs = execution.readable()
    budget = answers.max_chars - len(answer.text) - 300
    if await add_outputs(answer, outputs, answers, pages_of(execution.id), budget, before):
        answer.links.append(Link(output_uri(execution.id), f"all outputs of execution {execution.id}"))
    answer.text += _payloads(execution, max(500, answers.max_chars - len(answer.text) - 300))
    answer.text += _next_step(execution)
    return answer


def _status(status: str, count: int | None, seconds: float, epoch: int) -> str:
    """`ok In[3] 0.12s`; the epoch is told once there have been several."""
    epochs = f" epoch={epoch}" if epoch > 1 else ""
    return f"{status}{f' In[{count}]' if count is not None else ''} {seconds:.2f}s{epochs}"


def _payloads(execution: Execution, room: int) -> str:
    """What the kernel sent besides outputs: a pager's text, and what it offers as the next cell."""
    reducer = execution.reducer
    text = "\n".join(strip_ansi(page).rstrip() for page in reducer.paged)
    shown = f"\n{head_and_tail(text, room)}" if text else ""
    if reducer.offered is None:
        return shown
    return f"{shown}\nThe kernel offers as the next cell:\n{head_and_tail(reducer.offered, room)}"


def _behind_others(execution: Execution) -> str:
    since = None if execution.finished else execution.kernel.foreign_since
    if since is None:
        return ""
    return (
        f"It waits for code that somebody else runs in this kernel, since {max(0, time.time() - since):.0f} s. "
        "Cancelling leaves that alone; interrupt_kernel would interrupt it."
    )


def _unreachable(execution: Execution) -> str:
    since = None if execution.finished else execution.kernel.unreachable_since
    if since is None:
        return ""
    return (
        f"The kernel cannot be reached, since {max(0, time.time() - since):.0f} s; that is no sign that it ended. "
        "The execution is kept and goes on where it is; its output comes once the kernel is reached again."
    )


def _hash(execution: Execution) -> str:
    """The hash of the source that ran, as `source_hash` gives it for a code cell."""
    return source_hash({"cell_type": "code", "source": execution.code})


def _next_step(execution: Execution) -> str:
    if execution.input_request is not None:
        return (
            f"\nThe cell waits for input: {execution.input_prompt!r}. Answer it with "
            f'send_input(execution_id="{execution.id}", text=...).'
        )
    if execution.finished:
        return ""
    if execution.waits_for:
        return (
            f"\nNot run yet. {execution.waits_for} "
            f'get_execution(execution_id="{execution.id}", wait_seconds=45) waits for that.'
        )
    return (
        f'\nStill {execution.status}. get_execution(execution_id="{execution.id}", wait_seconds=45) waits for more; '
        "interrupt_kernel stops it."
    )


def execution_data(execution: Execution, index: int | None = None) -> dict[str, Any]:
    """The small status a program needs."""
    data: dict[str, Any] = {
        "execution_id": execution.id,
        "status": execution.status,
        "execution_count": execution.reducer.execution_count,
        "seconds": round(execution.seconds, 3),
        "kernel_id": execution.kernel.id,
        "kernel_epoch": execution.kernel_epoch,
    }
    if execution.cell_id is not None:
        data |= {
            "notebook_path": execution.notebook,
            "cell_id": execution.cell_id,
            "cell_index": index,
            "hash": _hash(execution),
        }
    if execution.input_request is not None:
        data["input_prompt"] = execution.input_prompt
    if _unreachable(execution):
        data["unreachable_since"] = execution.kernel.unreachable_since
    if execution.reducer.ename:
        data |= {"ename": execution.reducer.ename, "evalue": execution.reducer.evalue}
    return data


async def remembered(row: ExecutionRow, outputs: Sequence[Any], answers: Answers) -> Answer:
    """The answer for an execution that only the journal remembers, and what of its outputs is shown."""
    seconds = (row.finished_at or 0) - (row.started_at or row.finished_at or 0)
    answer = Answer(
        _status(row.status, row.execution_count, seconds, row.kernel_epoch),
        {
            "execution_id": row.id,
            "status": row.status,
            "execution_count": row.execution_count,
            "kernel_id": row.kernel_id,
            "kernel_epoch": row.kernel_epoch,
            "notebook_path": row.notebook,
            "cell_id": row.cell_id,
        },
    )
    if row.events_lost:
        answer.text += f"\n! {row.events_lost}"
    await add_outputs(answer, outputs, answers, pages_of(row.id), answers.max_chars - 300)
    return answer


def head_and_tail(text: str, limit: int, more: str = "") -> str:
    """The first and the last lines of a text, within `limit` characters; of longer lines pieces.

    Args:
        more: what is said where something is left out.
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    head, tail = text[:half], text[len(text) - half :]
    head = head[: head.rfind("\n")] if "\n" in head else head
    tail = tail[tail.find("\n") + 1 :] if "\n" in tail.rstrip("\n") else tail
    return f"{head}\n…{more}\n{tail}"


def numbered(lines: list[str], limit: int, more: str) -> str:
    """Lines up to `limit` characters, then what is left out and how to see it."""
    kept: list[str] = []
    size = 0
    for position, line in enumerate(lines):
        size += len(line) + 1
        if size > limit and position:
            kept.append(f"… {len(lines) - position} more; {more}")
            break
        kept.append(line)
    return "\n".join(kept)
