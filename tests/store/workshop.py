"""What the tests of the store share: a repository of their own, a clock, and git itself to check with."""

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ravi.core.trailers import Message
from ravi.store import git
from ravi.store.objects import Objects, Signature
from ravi.store.refs import MAIN, Refs
from ravi.store.writer import Draft, Propose, Writer

AUTHOR = Signature("Ada", "ada@example.org", 1_700_000_000, 60)
PLAIN = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "LC_ALL": "C",
}
TRACE = ["strace", "-qq", "-o", os.devnull]  # our own process alone: a pipe to git has no disk that fails


def shell(*args: str, cwd: Path | str, input: bytes | None = None) -> str:
    """What `git ARGS` prints, run as a person would."""
    done = subprocess.run(
        ["git", *args], cwd=cwd, input=input, capture_output=True, env=os.environ | PLAIN, check=False
    )
    assert done.returncode == 0, (args, done.stderr.decode())
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 10, 22, 33, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Store:
    """A repository with the parts of the store opened on it."""

    root: Path
    dirs: git.GitDirs
    objects: Objects
    refs: Refs
    writer: Writer
    clock: Clock

    def git(self, *args: str, input: bytes | None = None) -> str:
        return shell(*args, cwd=self.root, input=input)

    def fsck(self) -> None:
        """Git finds nothing wrong, and nothing to warn of but loose ends."""
        done = subprocess.run(
            ["git", "fsck", "--strict", "--no-dangling"],
            cwd=self.root,
            capture_output=True,
            env=os.environ | PLAIN,
            check=False,
        )
        lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("notice:")]
        assert done.returncode == 0, lines
        assert not lines

    def write(self, path: str, data: bytes, *, ref: str = MAIN) -> str:
        oid = self.writer.record(puts(path, data), ref=ref)
        assert oid is not None
        return oid

    def again(self) -> "Store":
        """The same repository, as another process would open it."""
        return opened(self.root)

    def close(self) -> None:
        self.writer.close()
        self.objects.close()


def init(root: Path) -> Store:
    """A new repository."""
    root.mkdir(parents=True, exist_ok=True)
    shell("init", "--quiet", "--initial-branch=main", cwd=root)
    return opened(root)


def opened(root: Path) -> Store:
    """The store of a repository."""
    dirs = git.find(str(root))
    objects, refs, clock = Objects(dirs.common_dir), Refs(dirs.git_dir, dirs.common_dir), Clock()
    return Store(root, dirs, objects, refs, Writer(objects, refs, dirs.common_dir, clock), clock)


def puts(path: str, data: bytes | None, subject: str = "") -> Propose:
    """A proposer of one change."""
    return lambda tip: Draft(Message(subject or f"note {path}: written"), {path: data}, AUTHOR)


def python(code: str, *args: object) -> list[str]:
    """The words that run `code` in another process."""
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path[:0] = [{os.path.dirname(__file__)!r}]\n{code}",
        *map(str, args),
    ]


def times(smoke: int, full: int) -> int:
    """How often a fault is tried: a few times, or with RAVI_FAULTS=full until there is no doubt."""
    return full if os.environ.get("RAVI_FAULTS") == "full" else smoke
