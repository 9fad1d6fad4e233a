"""Is it right, and what would be right: `check`, `schema`, `doctor`, `merge-driver`."""

import difflib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from ravi.app import App
from ravi.core import document
from ravi.core import schema as schemas
from ravi.core.task import Task
from ravi.errors import Malformed, NotFound, RaviError
from ravi.store import git

_LEAST_GIT = (2, 38)


def check(app: App) -> list[dict[str, Any]]:
    """Every mistake in the files as they lie, with path, line and key; errors first within a file."""
    found: list[dict[str, Any]] = []
    tasks: list[Task] = []
    agents: set[str] = set()
    for path, data in app.repository.ingest.files():
        kind = schemas.kind_of(path)
        if kind is None:
            continue
        if isinstance(data, str):  # why it cannot be read
            found.append(_row(path, 0, "", data, "error"))
            continue
        try:
            read = document.parse(data, path)
        except Malformed as error:
            found.append(_row(path, error.line, error.key, error.message, "error"))
            continue
        found += [_row(path, p.line, p.key, p.message, p.severity) for p in schemas.check(kind, read, path)]
        if kind == "agent":
            agents.add(path.split("/")[1])
        elif kind == "task":
            tasks.append(schemas.lenient_task(path, read))
    found += [_row(p.path, p.line, p.key, p.message, p.severity) for p in schemas.check_links(tasks, agents)]
    return sorted(found, key=lambda row: (row["path"], row["line"], row["key"]))


def schema(name: str) -> Any:
    """The JSON Schema of a document, or the names there are."""
    if not name:
        return sorted(schemas.KINDS)
    known = {
        alias: kind for kind in schemas.KINDS for alias in (kind, f"{kind}s", f"{kind.upper()}.md", f"{kind}.yaml")
    }
    known["ravi.yaml"] = "workspace"
    if name not in known:
        near = difflib.get_close_matches(name, schemas.KINDS, 1)
        raise NotFound(
            f"no schema `{name}`",
            hint=f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(sorted(schemas.KINDS))}",
        )
    return schemas.json_schema(known[name])


def merge_driver(base: str, ours: str, theirs: str, path: str) -> list[str]:
    """Merge three files for git, by field and by line, into `ours`. Returns where both changed the same place."""
    from ravi.store.merge import merge_blobs

    texts = []
    for name in (base, ours, theirs):
        with open(name, "rb") as file:
            texts.append(file.read())
    merged = merge_blobs(path or ours, texts[0], texts[1], texts[2], "ours")
    with open(ours, "wb") as file:
        file.write(merged.data)
    return [_met(path or ours, where, texts[1], texts[2]) for where in merged.conflicts]


def _met(path: str, where: str, ours: bytes, theirs: bytes) -> str:
    """What two sides said of one key, or that they said it of the text."""
    if where == "body" or not path.endswith(".md"):
        return f"{path}: both sides changed the same lines; those from here are kept, mend it and commit"
    mine, yours = (_said(where, data) for data in (ours, theirs))
    return f"{path}: {where}: {mine} here, {yours} there; {mine} is kept, mend it and commit"


def _said(where: str, data: bytes) -> str:
    from ravi.core.spelling import one_line

    value: Any = document.parse(data).front
    for name in (where,) if where in value else where.split("."):
        if not isinstance(value, dict) or name not in value:
            return "nothing"
        value = value[name]
    return one_line(value)


def doctor(workspace: str) -> list[dict[str, Any]]:
    """What this machine and this repository can do; each row says what is wrong and what mends it."""
    rows = list(_machine())
    try:
        app = App.find(workspace, dict(os.environ))
    except RaviError as error:
        return [*rows, _line("bad", "workspace", str(error), error.hint)]
    try:
        return rows + list(_repository(app))
    finally:
        app.close()


def _machine() -> Iterator[dict[str, Any]]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield _line("ok", "python", version)
    if shutil.which("git") is None:
        yield _line("bad", "git", "not on PATH", "install git 2.38 or newer")
        return
    words = git.run(["--version"], os.getcwd()).decode().split()
    number = tuple(int(part) for part in words[2].split(".")[:2])
    good = number >= _LEAST_GIT
    yield _line("ok" if good else "bad", "git", words[2], "" if good else "2.38 or newer is needed")


def _repository(app: App) -> Iterator[dict[str, Any]]:
    repository = app.repository
    yield _line("ok", "workspace", repository.root)
    driver = git.call(["config", "--get", "merge.ravi.driver"], repository.root)
    yield (
        _line("ok", "merge driver", "set up")
        if driver.code == 0
        else _line("warn", "merge driver", "not set up", "run `ravi init` again")
    )
    name, email = repository.person
    known = all(git.call(["config", "--get", key], repository.root).code == 0 for key in ("user.name", "user.email"))
    yield (
        _line("ok", "person", f"{name} <{email}>")
        if known
        else _line(
            "warn",
            "person",
            f"{name} <{email}>, from the login: git has no identity here",
            "tell git who you are: `git config --global user.name NAME`, and user.email",
        )
    )
    paused = repository.paused()
    yield _line("warn" if paused else "ok", "main line", paused or repository.branch.removeprefix("refs/heads/"))
    yield from _disk(repository.dirs.common_dir)
    yield from _filesystem(repository.beside)
    yield from _watches()


def _disk(folder: str) -> Iterator[dict[str, Any]]:
    space = os.statvfs(folder)
    free, files = space.f_bavail * space.f_frsize, space.f_favail
    low = free < 256 << 20 or (space.f_files and files < 10_000)
    yield _line("bad" if low else "ok", "disk", f"{free >> 20} MiB and {files} files free", "make room" if low else "")


def _filesystem(folder: str) -> Iterator[dict[str, Any]]:
    """What ravi leans on, tried for real: flock, atomic exchange, case."""
    from ravi.store.exchange import can_exchange
    from ravi.store.locks import Lock

    os.makedirs(folder, exist_ok=True)
    lock = Lock(os.path.join(folder, "doctor.lock"))
    try:
        locked = lock.try_acquire()
    finally:
        lock.close()
    yield (
        _line("ok", "locks", "flock works")
        if locked
        else _line("bad", "locks", "flock is refused here", "move the workspace to a local disk")
    )
    swaps = can_exchange(folder)
    yield (
        _line("ok", "exchange", "files are exchanged atomically")
        if swaps
        else _line(
            "warn",
            "exchange",
            "not on this filesystem: a save in the same millisecond as a write of ravi is checked for, not excluded",
        )
    )


def _watches() -> Iterator[dict[str, Any]]:
    if not sys.platform.startswith("linux"):
        yield _line("ok", "watches", "the system watches whole trees")
        return
    from ravi.bus.doorbell import half_of_the_system

    limit = half_of_the_system()
    good = limit >= 4096
    found = f"{limit} folders may be watched; the rest is looked at every minute"
    yield _line("ok" if good else "warn", "watches", found, "" if good else "raise fs.inotify.max_user_watches")


def _line(status: str, what: str, found: str, mend: str = "") -> dict[str, Any]:
    return {"status": status, "check": what, "found": found, "mend": mend}


def _row(path: str, line: int, key: str, message: str, severity: str) -> dict[str, Any]:
    return {"path": path, "line": line, "key": key, "message": message, "severity": severity}
