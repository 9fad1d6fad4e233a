"""Runs, as people ask for them: what was asked of an agent, how it ended, what it printed."""

import time
from collections.abc import Iterator
from typing import Any

from ravi.app import App
from ravi.core import run as runs
from ravi.core.run import Run
from ravi.errors import NotFound, Refused
from ravi.porcelain import task_changes, tasks
from ravi.store.repository import Reading


def listing(
    app: App, *, task: str = "", agent: str = "", status: str = "", limit: int | None = None
) -> list[dict[str, Any]]:
    """Runs, newest first. Raises UsageError for a status that no run has."""
    tasks.refuse_unknown(app, status, runs.STATUSES)
    with app.view() as view:
        app.permit("runs.list", None, view)
        found = view.all_runs(task=tasks.find(view, task).id if task else "", agent=agent, status=status, limit=limit)
        if app.actor.run is not None:
            from ravi.engine.policy import given

            mine = given(app.actor.run, view)
            found = [run for run in found if run.task in mine]
        return [app.run_json(run) for run in found]


def show(app: App, id: str) -> dict[str, Any]:
    """One run, with the agent's last words and what of its work was not taken back."""
    with app.view() as view:
        run = find(view, id)
        app.permit("runs.show", view.task(run.task), view)
        return {**app.run_json(run), "text": run.text}


def logs(app: App, id: str, *, follow: bool = False) -> Iterator[bytes]:
    """What a run printed, as it comes; with `follow` until the run has ended."""
    with app.view() as view:
        run = find(view, id)
        app.permit("runs.logs", view.task(run.task), view)
    path = app.repository.run_log(run.id)
    if not path.exists() and not run.is_live:
        yield run.text.encode()
        return
    position = 0
    while True:
        live = follow and app.repository.is_live(run.id)
        if path.exists():
            if path.stat().st_size < position:  # the middle was cut out when it ended
                position = 0
            with path.open("rb") as log:
                log.seek(position)
                while chunk := log.read(1 << 16):
                    position += len(chunk)
                    yield chunk
        if not live:
            return
        time.sleep(0.2)  # a log has no doorbell; five looks a second cost nothing


def stop(app: App, id: str) -> dict[str, Any]:
    """Ask a live run to end; its task is then blocked, until a person says what next."""
    with app.view() as view:
        run = find(view, id)
        app.permit("runs.stop", view.task(run.task), view)
        if not run.is_live:
            raise Refused(f"run {run.id} has ended: {run.status}")
        app.repository.ask_to_stop(run.id, app.actor.name, app.signature())
        return app.run_json(run)


def dead(app: App) -> list[dict[str, Any]]:
    """Runs that had no attempts left, whose task has not been opened again."""
    with app.view() as view:
        app.permit("dead.list", None, view)
        return [app.run_json(run) for run in dead_runs(view)]


def dead_runs(view: Reading) -> list[Run]:
    """Dead runs whose task has not been opened again, newest first."""
    return [run for run in view.all_runs(status=runs.DEAD) if _is_last(run, view)]


def retry_dead(app: App, id: str) -> dict[str, Any]:
    """Open the task of a dead run again."""
    with app.view() as view:
        run = find(view, id)
        if run.status != runs.DEAD or not _is_last(run, view):
            raise Refused(f"run {run.id} is not in `ravi dead`", hint=f"`ravi tasks retry {run.task}` opens its task")
    return task_changes.retry(app, run.task)


def find(view: Reading, id: str) -> Run:
    """A run by its id, or the last run of a task. Raises NotFound."""
    found = view.run(id)
    if found is not None:
        return found
    try:
        task = tasks.find(view, id)
    except NotFound:
        raise NotFound(f"no run `{id}`", hint="`ravi runs` lists them") from None
    if of_task := view.runs(task.id):
        return of_task[-1]
    raise NotFound(f"no run yet of task {task.id}", hint=f"`ravi tasks show {task.id}` says what it waits for")


def _is_last(run: Run, view: Reading) -> bool:
    task = view.task(run.task)
    return task is not None and task.status == "failed" and view.runs(task.id)[-1].id == run.id
