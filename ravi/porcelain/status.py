"""`ravi status`: what is going on in a workspace, and what is wrong, in one screen. It loads nothing of the loop."""

from collections import Counter
from typing import Any

from ravi import __version__
from ravi.app import App
from ravi.errors import RaviError
from ravi.porcelain import control
from ravi.store.locks import Holder, Leader
from ravi.store.repository import Reading

_PATIENCE = 1.0  # seconds for a daemon that may be stopped


def status(app: App) -> dict[str, Any]:
    """What is going on, and what is wrong, in one screen."""
    repository = app.repository
    with app.view() as view:
        app.permit("status", None, view)
        rows = view.list_tasks(fields=("id", "status"), live={run.id for run in view.live_runs()})
        counts = Counter(row["status"] for row in rows)
        live = [
            {**app.run_json(run), "progress": repository.live(run.id).get("progress", "")} for run in view.live_runs()
        ]
        dead = _dead(view)
        problems = view.problems()
        known = {row["path"] for row in problems}
        noted = repository.notes.read().items()
        problems += [
            {"path": path, "line": 0, "key": "", "message": text, "severity": "error"}
            for path, text in noted
            if path not in known
        ]
    holder = Leader(repository.dirs.common_dir).holder()
    return {
        "workspace": app.root,
        "name": app.settings.name,
        "branch": repository.branch.removeprefix("refs/heads/"),
        "recorded": repository.tip() or "",
        "published": repository.published() or "",
        "paused": repository.paused(),
        "daemon": _daemon(app, holder),
        "tasks": dict(sorted(counts.items())),
        "dead": dead,
        "runs": live,
        "problems": problems,
    }


def _dead(view: Reading) -> list[str]:
    """The runs of `ravi dead`; where none is dead at all, what tells them apart is not even loaded."""
    if not view.all_runs(status="dead"):
        return []
    from ravi.porcelain.runs import dead_runs

    return [run.id for run in dead_runs(view)]


def _daemon(app: App, holder: Holder | None) -> dict[str, Any]:
    """Who leads, and what they say of themselves on the control socket; a dead one's socket is not even tried."""
    told: dict[str, Any] = {
        "running": holder is not None,
        "answers": False,
        "pid": holder.pid if holder else None,
        "since": holder.since if holder else None,
        "host": holder.host if holder else None,
        "version": None,
        "here": __version__,
        "kind": None,
        "stopping": "",
        "follows": "",
        "nats": None,
        "omni": None,
        "queue": {"ready": 0, "waiting": 0},
    }
    if holder is not None:
        try:
            answer = control.ask(app.repository.beside, "status", timeout=_PATIENCE)
        except RaviError:
            return told  # it leads, and that is all that is known
        told |= {key: answer[key] for key in told if key in answer} | {"answers": True}
    return told
