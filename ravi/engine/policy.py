"""Limits and permissions as pure functions: who may do what, when to try again, when a chain of causes ends."""

from datetime import datetime

from ravi.core.actor import Actor
from ravi.core.ids import derive_id
from ravi.core.run import COUNTED, INTERRUPTED, Run
from ravi.core.task import Task
from ravi.core.times import later
from ravi.core.view import View

BACKOFF_CEILING = 3600.0  # seconds
CRASHES = 5  # runs in a row that ravi's own death ended, until a person is asked


def refusal(actor: Actor, verb: str, task: Task | None, view: View) -> str:
    """Why `actor` may not do `verb` (`tasks.comment`, `runs.stop`, …) to `task`; "" when it may.

    A run may read what it was given, comment on it, tell progress of and close its own task, and create children.
    Unknown means no.
    """
    run = actor.run
    if run is None:
        return ""
    own = task is not None and task.id == run.task
    match verb:
        case "tasks.list" | "runs.list":
            return ""  # the list itself is cut to what `given` names
        case "tasks.show" | "tasks.comment" | "tasks.tree" | "runs.show" | "runs.logs":
            if task is not None and task.id in given(run, view):
                return ""
        case "tasks.progress" | "tasks.done" | "tasks.block":
            if own:
                return ""
        case "tasks.new":
            if own:  # `task` is the parent
                return ""
            return f"run {run.id} may create children of its own task only; say --parent {run.task}"
    thing = f" {task.id}" if task is not None else ""
    return f"run {run.id} of agent {run.agent} may not do `{verb.replace('.', ' ')}`{thing}"


def given(run: Run, view: View) -> frozenset[str]:
    """Ids of the tasks that a run was given: its own, its parent, what it depends on, its children."""
    task = view.task(run.task)
    if task is None:
        return frozenset({run.task})
    near = (task.id, task.parent, *task.depends_on, *task.waiting_on, *(c.id for c in view.children(task.id)))
    return frozenset(id for id in near if id)


def next_attempt(runs: tuple[Run, ...]) -> int:
    """The attempt that a new run would be. What ravi's own death ended is tried again under the same number."""
    ended = [run for run in runs if not run.is_live]
    if not ended:
        return 1
    last = ended[-1]
    if last.status == INTERRUPTED:
        return last.attempt
    return last.attempt + 1 if last.status == "failed" else 1


def crashes(runs: tuple[Run, ...], since: str) -> int:
    """How many of the last runs in a row were ended by ravi's own death, counting those begun at `since` or later."""
    count = 0
    for run in reversed(runs):
        if run.status != INTERRUPTED or run.started < since:
            break
        count += 1
    return count


def retry_at(task: Task, run: Run, now: datetime) -> datetime:
    """When a failed attempt is due again: backoff doubling up to a ceiling, spread by ±10 % that its id decides."""
    wait = min(task.backoff * 2 ** (run.attempt - 1), max(BACKOFF_CEILING, task.backoff))
    spread = int(derive_id(run.id, "jitter")[:4], 16) / 0xFFFF * 0.2 - 0.1
    return later(now, wait * (1 + spread))


def is_out_of_attempts(task: Task, run: Run, status: str) -> bool:
    """True when a failure of this attempt is the last one allowed."""
    return status in COUNTED and run.attempt >= task.attempts
