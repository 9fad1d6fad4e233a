"""A run: one agent asked to do one thing, once. RUN.md tells it; its ref `refs/ravi/runs/ID` holds its work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ravi.core import document
from ravi.core.field import Field, Table

RUNNING = "running"  # claimed and not ended; the only status that is not on the main line
SUCCEEDED, FAILED, DEAD, CANCELLED, INTERRUPTED = "succeeded", "failed", "dead", "cancelled", "interrupted"
STATUSES = (RUNNING, SUCCEEDED, FAILED, DEAD, CANCELLED, INTERRUPTED)
REFS = "refs/ravi/runs/"
_ALWAYS = frozenset({"id", "task", "agent", "attempt", "status"})
COUNTED = frozenset({FAILED, DEAD})  # an attempt that ravi's own death ended, or a person stopped, does not count


@dataclass(frozen=True, slots=True)
class Run:
    """What RUN.md says. `attempt` counts from 1 in one piece of work; the number in `id` never repeats in a task."""

    id: str
    task: str
    agent: str
    attempt: int = 1
    first: int = 0  # the number of the run that began this piece of work; its retries share it
    status: str = RUNNING
    started: str = ""
    ended: str = ""
    base: str = ""  # the main-line commit that caused it and that its lane was made from
    merge: str = ""  # the merge commit that brought it back; known from history, never written
    branch: str = ""  # refs/ravi/runs/ID
    exit: int | None = None
    reason: str = ""  # why it did not succeed, in words
    retry_at: str = ""  # when the next attempt is due, decided once, when this one failed
    outcome: str = ""  # what the agent declared through ravi: done, blocked, or nothing
    summary: str = ""
    progress: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    woken_by: tuple[str, ...] = ()  # the children or upstream tasks whose end led here (a fan-in names them all)
    refused: tuple[str, ...] = ()  # changes in the lane that were not taken back, with the reason
    stop: str = ""  # who asked it to stop
    token: str = ""  # sha256 of the run's own token
    depth: int = 0
    worker: str = ""  # the worker that it was given to; "" where the leader carries it out itself
    returned: str = ""  # how the attempt ended there, until the leader has concluded from it
    path: str = ""
    text: str = ""  # the body: the agent's last words, bounded

    @property
    def is_live(self) -> bool:
        """True until its end is recorded."""
        return self.status == RUNNING

    @property
    def folder(self) -> str:
        """The folder of its task; of a run that is not on the main line yet: as it was called at the claim."""
        return self.path.rsplit("/", 3)[0]

    @property
    def number(self) -> int:
        """The n of `<task>.<n>`; 0 for an id of another shape."""
        last = self.id.rpartition(".")[2]
        return int(last) if last.isascii() and last.isdigit() else 0


TABLE = Table(
    "run",
    "RUN.md: one agent asked to do one thing, once. Written by ravi; the body is the agent's last words.",
    (
        Field("id", "run id", "TASK.NUMBER; the number never repeats in a task."),
        Field("task", "id", "The task it works on."),
        Field("agent", "name", "Who works."),
        Field("attempt", "int", "Which try of one piece of work this is, from 1.", 1, least=1),
        Field("first", "int", "The number of the run that began this piece of work.", 0, least=0),
        Field("status", "enum", "How it stands.", RUNNING, STATUSES),
        Field("started", "moment", "When it was claimed."),
        Field("ended", "moment", "When its end was recorded."),
        Field("base", "text", "The main-line commit that caused it and that its lane was made from."),
        Field("branch", "text", "The ref that holds its work."),
        Field("exit", "int", "The child's exit code, or minus the signal that ended it."),
        Field("reason", "text", "Why it did not succeed."),
        Field("retry_at", "moment", "When the next attempt is due."),
        Field("outcome", "text", "What the agent declared: done, blocked, or nothing."),
        Field("summary", "text", "How it ended, in a line."),
        Field("progress", "text", "How far it is."),
        Field("usage", "figures", "Tokens and money."),
        Field("woken_by", "text list", "The tasks whose end led here."),
        Field("refused", "text list", "Changes in the lane that were not taken back, with the reason."),
        Field("stop", "text", "Who asked it to stop."),
        Field("token", "text", "SHA-256 of the run's own token."),
        Field("depth", "int", "Length of its chain of causes.", 0, least=0),
        Field("worker", "name", "The worker that it was given to."),
        Field("returned", "text", "How the attempt ended there, until the leader has concluded from it."),
    ),
)


def read(path: str, front: Mapping[str, Any], body: str, lines: Mapping[str, int] | None = None) -> Run:
    """The run that a document at `path` holds. Raises Malformed at the first key that is wrong.

    What the file does not say the path does: tasks/…/TASK/runs/NUMBER/RUN.md.
    """
    values = TABLE.read(front, path, lines)
    parts = path.split("/")
    folder, number = (parts[-4], parts[-2]) if len(parts) > 4 and parts[-3] == "runs" else ("", "")
    task = values.pop("task", "") or folder
    name = values.pop("id", "") or (f"{task}.{number}" if task and number else "")
    return Run(name, task, values.pop("agent", ""), **values, path=path, text=body)


def ref(name: str) -> str:
    """The git ref that holds a run's work."""
    return REFS + name


def place(folder: str, name: str) -> str:
    """The path of a run's RUN.md below its task's folder."""
    return f"{folder}/runs/{name.rpartition('.')[2]}/RUN.md"


def parse(path: str, data: bytes) -> Run:
    """The run that the bytes of a RUN.md hold. Raises Malformed."""
    parsed = document.parse(data, path)
    return read(path, parsed.front, parsed.body, parsed.lines)


def render(run: Run) -> bytes:
    """RUN.md of a run: only what differs from the defaults, in the table's order; the body is its last words."""
    values = ((field.name, getattr(run, field.name), field.default) for field in TABLE.fields)
    front = {
        name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for name, value, default in values
        if name in _ALWAYS or (value not in (default, "", None, (), {}))
    }
    return document.render(front, run.text.rstrip("\n") + "\n" if run.text.strip() else "")
