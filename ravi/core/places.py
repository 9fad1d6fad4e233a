"""Where documents lie in a workspace: from a path to the kind of document, and from its bytes to the noun."""

import re
from typing import TYPE_CHECKING, NamedTuple

from ravi.errors import Malformed

if TYPE_CHECKING:  # whoever changes one task does not need all the nouns: they take 5 ms
    from ravi.core.agent import Agent
    from ravi.core.comment import Comment
    from ravi.core.run import Run
    from ravi.core.task import Task

TASK, RUN, COMMENT, AGENT, CONTACT = "task", "run", "comment", "agent", "contact"
FOLDERS = ("agents", "contacts", "tasks")  # where they all are
_NUMBER = re.compile(r"[0-9]{1,9}\Z")


class Problem(NamedTuple):
    """A document that cannot be read, or says what is not allowed."""

    path: str
    message: str
    line: int = 0
    key: str = ""


if TYPE_CHECKING:
    Noun = Task | Run | Agent | Comment | Problem
else:
    Noun = object


class Place(NamedTuple):
    """What a path stands for. `folder` is the folder of its task or agent, `name` a run's number or a name."""

    kind: str
    folder: str
    name: str = ""


def place_of(path: str) -> Place | None:
    """The document that lies at `path`, or None: what a run made (`outputs/`) is never one, whatever its name."""
    top, _, rest = path.partition("/")
    if top == "tasks":
        return _below_tasks(path)
    parts = rest.split("/")
    if top == "agents" and len(parts) == 2 and parts[1] == "AGENT.md":
        return Place(AGENT, f"agents/{parts[0]}", parts[0])
    if top == "contacts" and len(parts) == 1 and rest.endswith(".md"):
        return Place(CONTACT, "contacts", rest[:-3])
    return None


def read(path: str, place: Place, data: bytes, task_id: str = "") -> Noun | None:
    """The noun that the bytes at `path` hold, or what is wrong with them; None for a contact, of which only the name
    counts. `task_id` is the task whose folder a comment lies in.
    """
    try:
        match place.kind:
            case "task":
                from ravi.core import task

                return task.parse(path, data)
            case "run":
                from ravi.core import run

                return run.parse(path, data)
            case "agent":
                from ravi.core import agent

                return agent.parse(path, data)
            case "comment":
                from ravi.core import comment, document

                doc = document.parse(data, path)
                return comment.read(task_id, path, doc.front, doc.body)
    except Malformed as fault:
        return Problem(path, fault.message, fault.line, fault.key)
    return None


def _below_tasks(path: str) -> Place | None:
    parts = path.split("/")
    name = parts[-1]
    if not name.endswith(".md") or "outputs" in parts[1:-1]:
        return None
    runs = parts.index("runs", 1) if "runs" in parts[1:-1] else 0
    if name == "RUN.md" and runs and runs == len(parts) - 3 and _NUMBER.match(parts[runs + 1]):
        return Place(RUN, "/".join(parts[:runs]), parts[runs + 1])
    if runs:
        return None
    if name == "TASK.md":
        return Place(TASK, path[:-8])
    if parts[-2] == "comments":
        return Place(COMMENT, "/".join(parts[:-2]))
    return None
