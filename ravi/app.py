"""The composition root: a workspace opened, with who asks, what time it is, and everything real put together."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ravi.errors import Malformed, NotFound, NotPermitted, RaviError
from ravi.store.index import run_json, task_json
from ravi.store.repository import Reading, Repository

if TYPE_CHECKING:  # a list needs none of these
    from ravi.config import Settings
    from ravi.core.actor import Actor
    from ravi.core.run import Run
    from ravi.core.task import Task
    from ravi.core.view import View
    from ravi.store.objects import Signature

SETTINGS = "ravi.yaml"


class App:
    """One opened workspace. Every verb of `porcelain` takes one."""

    def __init__(self, root: str, environ: Mapping[str, str], now: Callable[[], datetime] | None = None) -> None:
        self.root = root
        self.environ = environ
        self.now = now or (lambda: datetime.now(UTC))
        self.notices: list[str] = []  # what the person should know though it is no fault
        self.writes_out = True  # False where somebody else publishes what is recorded
        self.repository = Repository(root, self.now, lambda: self.settings.branch)

    @classmethod
    def find(cls, workspace: str, environ: Mapping[str, str]) -> "App":
        """Open the workspace that was named, else RAVI_WORKSPACE, else the nearest one upwards. Raises NotFound."""
        named = workspace or environ.get("RAVI_WORKSPACE", "")
        if named:
            root = os.path.realpath(named)
            if not os.path.lexists(os.path.join(root, SETTINGS)):
                raise NotFound(
                    f"{named}: no workspace here, {SETTINGS} is missing", hint=f"make one with `ravi init {named}`"
                )
            return cls(root, environ)
        here = os.path.realpath(os.getcwd())
        while not os.path.lexists(os.path.join(here, SETTINGS)):
            if here == os.path.dirname(here):
                raise NotFound(
                    "no workspace here or above", hint="make one with `ravi init`, or name one with --workspace DIR"
                )
            here = os.path.dirname(here)
        return cls(here, environ)

    def close(self) -> None:
        """Let go of processes and files."""
        self.repository.close()

    @cached_property
    def settings(self) -> "Settings":
        """What ravi.yaml says. Raises Malformed."""
        from ravi import config
        from ravi.core import document

        with open(os.path.join(self.root, SETTINGS), "rb") as file:
            return config.read(document.parse(file.read(), SETTINGS).front)

    def read_settings_again(self) -> None:
        """Take what ravi.yaml says by now. Raises Malformed, and keeps what it said before."""
        before = self.__dict__.pop("settings", None)
        try:
            _ = self.settings
        except RaviError:
            if before is not None:
                self.__dict__["settings"] = before
            raise

    @cached_property
    def run(self) -> "Run | None":
        """The run whose token this process carries; None for the operator. Raises NotPermitted for a bad token."""
        token, run_id = self.environ.get("RAVI_CONTEXT", ""), self.environ.get("RAVI_RUN", "")
        return self._judged(token, run_id) if token or run_id else None

    @cached_property
    def actor(self) -> "Actor":
        """Who asks, by name."""
        from ravi.core.actor import Actor

        if self.run is not None:
            return Actor(self.run.agent, f"{self.run.agent}@agents.invalid", self.run)
        return Actor(*self.repository.person)

    @contextmanager
    def view(self) -> Iterator[Reading]:
        """The workspace as recorded by now."""
        with self.repository.view() as view:
            yield view

    def permit(self, verb: str, task: "Task | None", view: "View") -> None:
        """Let it pass, or raise NotPermitted with the reason. The operator may do everything."""
        if self.run is None:
            return
        from ravi.engine.policy import refusal

        reason = refusal(self.actor, verb, task, view)
        if reason:
            raise NotPermitted(
                reason,
                hint="a run may read what it was given, comment, tell progress, close its own task, create children",
            )

    def permit_operator(self, verb: str) -> None:
        """Let only a person pass. Raises NotPermitted for a run."""
        if self.run is not None:
            raise NotPermitted(f"a run may not do `{verb}`")

    def signature(self) -> "Signature":
        """Who the commits of this call are by."""
        from ravi.store.objects import Signature

        return Signature(self.actor.name, self.actor.email, int(self.now().timestamp()))

    def trailers(self, task: "Task", event: str, *, parent: str = "") -> dict[str, str]:
        """The trailers of a commit about `task` that this call makes."""
        run = self.run
        said = {"Ravi-Event": event, "Ravi-Task": task.id, "Ravi-Parent": parent or task.parent, "Ravi-Depth": "0"}
        if run is not None:
            claim = self.repository.refs.read(run.branch) or ""
            said |= {"Ravi-Run": run.id, "Ravi-Agent": run.agent, "Ravi-Depth": str(run.depth), "Ravi-Cause": claim}
        return said

    def publish(self, task: "Task | None" = None) -> None:
        """Write what is recorded out to branch, files and index, and the link to `task`; a hindrance is a notice."""
        if not self.writes_out:
            return
        if paused := self.repository.publish().paused:
            self.notices.append(f"recorded, but not written out yet: {paused}")
        if task is not None:
            self.repository.links.set(task.id, "" if task.is_closed else task.folder)

    def look(self, path: str) -> None:
        """Take a person's saved edit of one file before something else is written into it."""
        if self.settings.ingest == "auto" and self.run is None:
            self.repository.take((path,))

    def index(self) -> Any:
        """The index, caught up with what is recorded."""
        return self.repository.caught_up()

    def status(self, task: "Task", view: Reading) -> str:
        return view.status_of(task)

    def explain(self, task: "Task", view: "View") -> str:
        """Why a task does not run at this moment; "" when nothing keeps it."""
        from ravi.engine.explain import explain

        return explain(task, view, self.now())

    def task_json(self, task: "Task", view: Reading) -> dict[str, Any]:
        return task_json(task, view.status_of(task), tuple(run.id for run in view.runs(task.id)))

    def run_json(self, run: "Run") -> dict[str, Any]:
        return run_json(run)

    def refuse_problems(self, task: "Task", view: "View") -> None:
        """Raise Malformed when `task` could not lie in a workspace beside the others."""
        if task.parent == task.id or task.id in task.depends_on:
            raise Malformed(
                "a task cannot wait for itself",
                path=task.path,
                key="parent" if task.parent == task.id else "depends_on",
            )
        for key, start in (("parent", (task.parent,)), ("depends_on", task.depends_on)):
            if _reaches(task.id, start, key, view):
                raise Malformed(f"closes a circle: {task.id} would wait for itself", path=task.path, key=key)

    def near(self, word: str, known: Iterable[str]) -> str:
        """A hint that names what was probably meant."""
        import difflib

        found = difflib.get_close_matches(word, list(known), 1)
        return f"did you mean `{found[0]}`?" if found else ""

    def _judged(self, token: str, run_id: str) -> "Run":
        import hashlib
        import hmac

        name, _, secret = token.rpartition(".")
        run = self.repository.run_on_branch(name) if name else None
        good = run is not None and run.is_live and self.repository.is_live(run.id)
        if run is None or not good or not hmac.compare_digest(run.token, hashlib.sha256(secret.encode()).hexdigest()):
            raise NotPermitted(
                "this call comes from inside a run"
                + (f" ({run_id})" if run_id else "")
                + ", and its token is missing, wrong or over",
                hint="a token ends with its run; outside of runs, unset RAVI_RUN and RAVI_CONTEXT",
            )
        return run


def clock() -> float:
    """Seconds that only go forward, for limits and waits."""
    return time.monotonic()


def _reaches(goal: str, start: Iterable[str], key: str, view: "View") -> bool:
    todo, seen = [id for id in start if id], set[str]()
    while todo:
        id = todo.pop()
        if id == goal:
            return True
        other = view.task(id)
        if id in seen or other is None:
            continue
        seen.add(id)
        todo += (
            [other.parent]
            if key == "parent" and other.parent
            else list(other.depends_on)
            if key == "depends_on"
            else []
        )
    return False
