"""The person's checkout: what is checked out, whether git is in the middle of something, and who sits there."""

import os
from dataclasses import dataclass

from ravi.store.git import GitDirs, call
from ravi.store.refs import Refs

_UNDER_WAY = (
    ("MERGE_HEAD", "a merge"),
    ("rebase-merge", "a rebase"),
    ("rebase-apply", "a rebase"),
    ("CHERRY_PICK_HEAD", "a cherry-pick"),
    ("REVERT_HEAD", "a revert"),
    ("BISECT_LOG", "a bisect"),
    ("sequencer", "a cherry-pick or revert"),
)
_COMPOSING = 900.0  # seconds for which an untouched commit message counts as being written, where nobody can be asked


@dataclass(frozen=True, slots=True)
class Checkout:
    """One reading. Two that are equal, before and after files were read, mean that git did nothing in between."""

    branch: str | None  # full ref name, also when it has no commit yet; None when detached
    tip: str | None
    under_way: str  # `a merge`, `a rebase`, ...; "" when git is at rest
    is_locked: bool  # somebody holds index.lock
    index: tuple[int, int, int] | None  # inode, time and size of the index

    def pause(self, branch: str) -> str:
        """Why nothing may be ingested or published while it is so; "" when it may. `branch` is the main line's."""
        if self.under_way:  # first: a rebase detaches HEAD, and to go back by hand would lose it
            return f"{self.under_way} is under way; finish or abort it with git"
        if self.branch is None:
            return f"HEAD is detached; go back with `git switch {_short(branch)}`"
        if self.branch != branch:
            return f"{_short(self.branch)} is checked out, the main line is {_short(branch)}"
        return ""


def read(dirs: GitDirs, refs: Refs) -> Checkout:
    """The checkout as it is now."""
    head = refs.head()
    try:
        said = os.stat(os.path.join(dirs.git_dir, "index"))
        index = (said.st_ino, said.st_mtime_ns, said.st_size)
    except FileNotFoundError:
        index = None
    return Checkout(head.branch, head.oid, _under_way(dirs), os.path.lexists(lock_path(dirs)), index)


def lock_path(dirs: GitDirs) -> str:
    """git's own lock on the index."""
    return os.path.join(dirs.git_dir, "index.lock")


def is_composing(dirs: GitDirs, now: float) -> bool:
    """True while the person writes a commit message: a branch that moved under them would refuse their commit.

    `git commit` holds no lock while its editor is open. What it leaves is a message newer than the last commit.
    """
    written = _touched(os.path.join(dirs.git_dir, "COMMIT_EDITMSG"))
    if written is None or written <= (_touched(os.path.join(dirs.git_dir, "logs", "HEAD")) or 0.0):
        return False
    runs = _runs_git(dirs.work_tree)
    return now - written < _COMPOSING if runs is None else runs


def person(dirs: GitDirs) -> tuple[str, str]:
    """Name and mail of whoever works here: git's identity, else the login name."""
    done = call(["config", "-z", "--get-regexp", r"^user\.(name|email)$"], dirs.work_tree)
    found = dict(line.partition("\n")[::2] for line in done.out.decode("utf-8", "replace").split("\0") if line)
    login = _login()
    return found.get("user.name") or login, found.get("user.email") or f"{login}@localhost"


def _under_way(dirs: GitDirs) -> str:
    try:
        there = set(os.listdir(dirs.git_dir))
    except FileNotFoundError:
        return ""
    return next((what for name, what in _UNDER_WAY if name in there), "")


def _touched(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return None


def _runs_git(work_tree: str) -> bool | None:
    """True when a `git` of this user works in `work_tree`; None where that cannot be seen."""
    try:
        processes = [name for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return None
    if not processes:
        return None
    root = os.path.realpath(work_tree)
    for process in processes:
        try:
            with open(f"/proc/{process}/comm", "rb") as file:
                if file.read() != b"git\n":
                    continue
            with open(f"/proc/{process}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if b"commit" in words and os.readlink(f"/proc/{process}/cwd") == root:
                return True
        except OSError:  # it ended, or belongs to somebody else
            continue
    return False


def _login() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("USER") or "somebody"


def _short(branch: str) -> str:
    return branch.removeprefix("refs/heads/")
