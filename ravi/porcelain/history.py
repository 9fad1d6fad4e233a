"""What happened and why, read from git: `ravi log`, `ravi why`. Plain git tells the same; these save typing."""

from datetime import UTC, datetime
from typing import Any

from ravi.app import App
from ravi.core import trailers
from ravi.core.times import stamp
from ravi.errors import NotFound
from ravi.porcelain import tasks
from ravi.store import git
from ravi.store.history import commits
from ravi.store.repository import Reading

_CHAIN = 64  # links of a chain of causes that are followed


def log(app: App, about: str = "", *, limit: int = 20) -> list[dict[str, Any]]:
    """Commits of the main line, newest first; with `about` (a task, a run or an agent) only those that name it."""
    with app.view() as view:
        app.permit("log", None, view)
        if app.repository.tip() is None:
            return []
        naming = _naming(app, about, view) if about else ()
        return [_told(app, oid) for oid in commits(app.root, limit=limit, naming=naming)]


def why(app: App, id: str) -> dict[str, Any]:
    """What led to a task, a run or a commit: the chain of causes back to a person, and what keeps it now."""
    with app.view() as view:
        app.permit("why", None, view)
        task = view.task(id)
        if task is None and (run := view.run(id)) is not None:
            start = run.merge or app.repository.refs.read(run.branch) or ""
            said = {"kind": "run", "id": run.id, "status": run.status, "explanation": run.reason or run.summary}
            claim = app.repository.claim_of(run.id, start)
            return {**said, "causes": _chain(app, claim or start, view)}
        if task is None and (oid := _commit(app, id)) is not None:
            return {"kind": "commit", "id": oid, "status": "", "explanation": "", "causes": _chain(app, oid, view)}
        task = task or tasks.find(view, id)
        last = commits(app.root, limit=1, naming=_naming(app, task.id, view))
        return {
            "kind": "task",
            "id": task.id,
            "status": app.status(task, view),
            "explanation": task.summary if task.is_closed else app.explain(task, view),
            "causes": _chain(app, last[0], view) if last else [],
            "runs": [app.run_json(run) for run in view.runs(task.id)],
        }


def _naming(app: App, about: str, view: Reading) -> tuple[tuple[str, str], ...]:
    """The trailers that name a task, a run or an agent, also of the past. Raises NotFound for anything else."""
    if view.agent(about) is not None:
        return (("Ravi-Agent", about),)
    if view.run(about) is not None:
        return (("Ravi-Run", about),)
    try:
        id = tasks.find(view, about).id
    except NotFound:
        past = (("Ravi-Task", about), ("Ravi-Run", about), ("Ravi-Parent", about))
        if not commits(app.root, limit=1, naming=past):
            raise
        return past
    return (("Ravi-Task", id), ("Ravi-Parent", id))


def _commit(app: App, text: str) -> str | None:
    """The commit that git knows by these words: an id, a branch, `HEAD~2`."""
    if not text or text.startswith(("-", "^")):  # not the name of one
        return None
    found = git.call(["rev-parse", "--verify", "--quiet", f"{text}^{{commit}}"], app.repository.root)
    return found.out.decode().strip() if found.code == 0 else None


def _chain(app: App, oid: str, view: Reading) -> list[dict[str, Any]]:
    links: list[dict[str, Any]] = []
    seen: set[str] = set()
    while oid and oid not in seen and len(links) < _CHAIN:
        seen.add(oid)
        link = _told(app, oid)
        links.append(link)
        cause = link["cause"]
        oid = cause if len(cause) == 40 else view.event_commit(cause) or ""
    return links


def _told(app: App, oid: str) -> dict[str, Any]:
    commit = app.repository.objects.commit(oid)
    message = trailers.parse(commit.message)
    named = {name[5:].lower(): message.trailers.get(name, "") for name in trailers.NAMES if name != "Ravi-Callback"}
    return {
        "commit": oid,
        "time": stamp(datetime.fromtimestamp(commit.author.when, UTC)),
        "author": commit.author.name,
        "subject": message.subject,
        "body": message.body,
        **named,
        "callbacks": list(message.callbacks),
    }
