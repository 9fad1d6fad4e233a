"""`ravi init`: make a workspace, or add what a repository lacks to be one. What is there already is never changed."""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ravi import config
from ravi.core import document
from ravi.core.ids import derive_id
from ravi.core.trailers import Message
from ravi.errors import NotFound, NotPermitted, Refused
from ravi.porcelain.shipped import shipped, template, write_schemas
from ravi.store import git
from ravi.store.objects import Signature, TreeEntry
from ravi.store.repository import Repository
from ravi.store.writer import Draft, Tip

SETTINGS = "ravi.yaml"
_EXTENDED = {".gitignore": "gitignore", ".gitattributes": "gitattributes"}
_PLAIN, _EXECUTABLE = 0o100644, 0o100755


@dataclass(frozen=True, slots=True)
class _File:
    """A file that a workspace should have: its bytes, and its mode in git."""

    data: bytes
    mode: int = _PLAIN


def init(path: str, environ: Mapping[str, str], *, example: bool = False) -> dict[str, Any]:
    """Make `path` a workspace and say what was added; a second time there is nothing to add.

    Raises Refused inside of another repository, and while the main line is not what is checked out and at rest.
    """
    if environ.get("RAVI_RUN") or environ.get("RAVI_CONTEXT"):
        raise NotPermitted("this call comes from inside a run; workspaces are made by people")
    root = os.path.realpath(path)
    is_new = _make_repository(path, root)
    branch = _main_line(root)
    if not branch:
        raise Refused(f"{path}: no branch is checked out", hint="check out the one that is to be the main line")
    repository = Repository(root, lambda: datetime.now(UTC), lambda: branch)
    try:
        told = _complete(repository, branch, example=example)
        write_schemas(repository.private)
    finally:
        repository.close()
    return {"workspace": root, "branch": branch, "new_repository": is_new, **told}


def _make_repository(path: str, root: str) -> bool:
    """Have a git repository at `root`; True when it is a new one."""
    if os.path.lexists(root) and not os.path.isdir(root):
        raise Refused(f"{path}: is a file")
    try:
        top = git.find(root).work_tree
    except NotFound:
        if bare := _bare(root):
            raise Refused(
                f"{path}: {bare} is a repository without files (a bare one), and a workspace is files",
                hint=f"clone it, and make the clone a workspace: `git clone {bare} DIR`, `ravi init DIR`",
            ) from None
        os.makedirs(root, exist_ok=True)
        named = git.run(["config", "--get", "init.defaultBranch"], root, ok=(0, 1)).strip()
        git.run(["init", "--quiet", *([] if named else ["--initial-branch=main"])], root)
        return True
    if os.path.realpath(top) != root:
        raise Refused(
            f"{path}: lies inside the repository {top}, and a workspace is the root of one",
            hint=f"`ravi init {top}` makes that one a workspace; `git init {path}` makes this folder a repository",
        )
    if (other := _not_checked_out(root)) is not None:
        raise Refused(
            f"{path}: this clone has nothing checked out, and {other} holds a workspace",
            hint=f"`git -C {path} switch {other.partition('/')[2]}`, then `ravi init {path}`",
        )
    return False


def _not_checked_out(root: str) -> str | None:
    """The branch of a remote that holds a workspace, where this clone itself has no commit yet."""
    if git.call(["rev-parse", "--verify", "--quiet", "HEAD"], root).code == 0:
        return None
    found = git.call(["for-each-ref", "--format=%(refname:lstrip=2)", "refs/remotes"], root).out.decode().split()
    branches = [name for name in found if not name.endswith("/HEAD")]
    return next((name for name in branches if git.call(["cat-file", "-e", f"{name}:{SETTINGS}"], root).code == 0), None)


def _bare(root: str) -> str:
    """The repository without a work tree that `root` is, or lies in; "" when there is none."""
    here = root
    while True:
        if os.path.lexists(os.path.join(here, "HEAD")) and all(
            os.path.isdir(os.path.join(here, name)) for name in ("objects", "refs")
        ):
            return here
        here, below = os.path.dirname(here), here
        if here == below:
            return ""


def _main_line(root: str) -> str:
    """The branch that the settings name, else the one that is checked out; "" when there is none."""
    settings = os.path.join(root, SETTINGS)
    if os.path.exists(settings):
        with open(settings, "rb") as file:
            named = config.read(document.parse_yaml(file.read(), SETTINGS)).branch
        if named:
            return named
    head = git.run(["symbolic-ref", "--quiet", "HEAD"], root, ok=(0, 1)).decode().strip()
    return head.removeprefix("refs/heads/")


def _complete(repository: Repository, branch: str, *, example: bool) -> dict[str, Any]:
    """Record and publish what is missing."""
    repository.adopt()  # the main line starts where the branch is
    lacking = {name: file for name, file in _wanted(branch, example=example).items() if _is_missing(repository, name)}
    longer = {name: text for name in _EXTENDED if (text := _longer(_on_disk(repository, name), name)) is not None}
    if (lacking or longer) and (paused := repository.publisher.paused()):
        raise Refused(f"{repository.root}: {paused}")
    own = {name for name in longer if _on_disk(repository, name) != _recorded(repository, name)}
    files = {**lacking, **{name: _File(text) for name, text in longer.items() if name not in own}}
    commit = _record(repository, files) if files else None
    for name in own:  # the person is at work in it, so the lines are theirs to commit
        with open(os.path.join(repository.root, name), "wb") as file:
            file.write(longer[name])
    return {
        "added": sorted(lacking),
        "extended": sorted(longer),
        "uncommitted": sorted(own),
        "merge_driver": _set_up_driver(repository.root),
        "commit": commit,
        "paused": repository.publish().paused if commit else "",
    }


def _wanted(branch: str, *, example: bool) -> dict[str, _File]:
    """The files of a workspace, by path."""
    if not example:
        return {SETTINGS: _File(_on_branch(template(SETTINGS), branch))}
    files = {}
    top = shipped("workspace.example")
    for folder, below, names in os.walk(top):
        below[:] = [name for name in below if name != "__pycache__"]
        for name in names:
            whole = os.path.join(folder, name)
            with open(whole, "rb") as file:
                data = file.read()
            mode = _EXECUTABLE if os.access(whole, os.X_OK) else _PLAIN
            files[os.path.relpath(whole, top).replace(os.sep, "/")] = _File(data, mode)
    return {**files, SETTINGS: _File(_on_branch(files[SETTINGS].data, branch))}


def _on_branch(settings: bytes, branch: str) -> bytes:
    """The settings with the branch that is checked out as the main line."""
    return settings.replace(b"\nbranch: main ", f"\nbranch: {branch} ".encode())


def _is_missing(repository: Repository, name: str) -> bool:
    """True when a file neither lies there nor is recorded: one that a person deleted stays deleted."""
    return not os.path.lexists(os.path.join(repository.root, name)) and _recorded(repository, name) is None


def _recorded(repository: Repository, name: str) -> bytes | None:
    tip = repository.tip()
    return None if tip is None else repository.objects.read(repository.objects.commit(tip).tree, name)


def _on_disk(repository: Repository, name: str) -> bytes | None:
    try:
        with open(os.path.join(repository.root, name), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _longer(text: bytes | None, name: str) -> bytes | None:
    """A file's text with the lines of its template that it lacks, or None when it has them all."""
    old = text or b""
    known = {line.strip() for line in old.splitlines()}
    lacking = [line for line in template(_EXTENDED[name]).splitlines() if line not in known]
    if all(line.startswith(b"#") for line in lacking):
        return None
    newline = b"\r\n" if b"\r\n" in old else b"\n"
    gap = newline if old.endswith(b"\n") else newline * 2
    return (old + gap if old else b"") + b"".join(line + newline for line in lacking)


def _record(repository: Repository, files: Mapping[str, _File]) -> str | None:
    name, email = repository.person
    author = Signature(name, email, int(repository.now().timestamp()))
    event = derive_id("workspace.made", repository.tip() or "", *sorted(files))
    message = Message("workspace: made ready for ravi", "\n".join(sorted(files)), {"Ravi-Event": event})

    def propose(tip: Tip) -> Draft:
        entries = {path: TreeEntry(file.mode, tip.objects.put_blob(file.data)) for path, file in files.items()}
        return Draft(message, entries, author)

    return repository.writer.record(propose)


def _set_up_driver(root: str) -> bool:
    """Tell this clone's git how documents are merged; False when it knows."""
    told = False
    for key, value in _driver().items():
        if git.run(["config", "--local", "--get", key], root, ok=(0, 1)).decode().strip() != value:
            git.run(["config", "--local", key, value], root)
            told = True
    return told


def _driver() -> dict[str, str]:
    """Settings of git. Where `ravi` is not on PATH, git is told where this one is."""
    program = "ravi" if shutil.which("ravi") else f"{shlex.quote(sys.executable)} -m ravi"
    return {
        "merge.ravi.name": "ravi: documents are merged by field",
        "merge.ravi.driver": f"{program} merge-driver %O %A %B %P",
    }
