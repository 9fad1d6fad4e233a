"""A comment: one file in a task's `comments/`, so that two writers never meet in one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ravi.core.times import stamp


@dataclass(frozen=True, slots=True)
class Comment:
    """What was said, by whom, when. `kind` is `callback` when ravi tells the end of another task."""

    task: str
    author: str
    created: str
    text: str
    path: str = ""
    kind: str = ""


def place(folder: str, moment: datetime, key: str) -> str:
    """The path of a comment below a task's folder: names sort by time, `key` (an id) keeps two of one moment apart."""
    return f"{folder}/comments/{moment.astimezone(UTC).strftime('%Y%m%dT%H%M%S')}-{key[:12]}.md"


def front(author: str, moment: datetime, kind: str = "") -> Mapping[str, Any]:
    """The front matter of a comment."""
    return {"author": author, "created": stamp(moment), **({"kind": kind} if kind else {})}


def read(task: str, path: str, data: Mapping[str, Any], body: str) -> Comment:
    """The comment that a document holds; a file with no front matter is a comment too."""
    return Comment(
        task,
        str(data.get("author") or ""),
        str(data.get("created") or ""),
        body.strip(),
        path,
        str(data.get("kind") or ""),
    )
