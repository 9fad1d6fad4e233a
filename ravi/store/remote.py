"""A git remote that the clones of one workspace share: what it has, fetched; what it shall have, pushed by
compare-and-swap; and which of the clones leads.

Nothing is ever forced: each ref is pushed with the value that it must still have, and all of them together or none.
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ravi.errors import Conflict, NotFound, Refused, Unavailable
from ravi.store.durable import make_folders, sync_folder, write_new
from ravi.store.git import GIT_SAFE, Finished, GitDirs, call, environment
from ravi.store.objects import Objects
from ravi.store.refs import MAIN, RUNS, Refs, check_name

LEADER = "refs/ravi/leader"
ACTED_ON = "refs/ravi/cursor/engine"
_SEEN = "refs/ravi/remotes/"  # what a remote had when it was last fetched; it keeps those commits from git's gc
_QUIET = ("push.gpgSign=false", "push.followTags=false")
_TRANSPORT = ("GIT_SSH", "GIT_ASKPASS", "GIT_PROXY", "GIT_SSL_", "GIT_HTTP_", "GIT_TRACE_CURL")  # a person's way there
_MOVED = (
    "stale info",
    "fetch first",
    "non-fast-forward",
    "failed to update ref",
    "failed to lock",
    "cannot lock ref",
    "incorrect old value",
    "already exists",
    "atomic",
)


class Moved(Conflict):
    """The remote is not as it was fetched: somebody else pushed. Nothing of ours is there."""


class Lead(NamedTuple):
    """Which clone runs agents, as a blob at `refs/ravi/leader` says. Each take-over has a higher epoch."""

    clone: str
    host: str
    epoch: int
    since: str

    def render(self) -> bytes:
        return (json.dumps(self._asdict(), ensure_ascii=False, sort_keys=True) + "\n").encode()

    def __str__(self) -> str:
        return f"clone {self.clone} on {self.host} since {self.since}"


class There(NamedTuple):
    """What a remote had when it was last fetched; None is a ref that it does not have."""

    branch: str | None
    main: str | None
    leader: str | None
    acted_on: str | None
    runs: Mapping[str, str]  # run id -> the tip of its branch


class Update(NamedTuple):
    """One ref to push: `new` (None takes it away) where `old` must be (None: nothing)."""

    ref: str
    new: str | None
    old: str | None


class Remote:
    """A remote of a repository, by its name in git's config. A person's credentials and ssh work, hooks do not run."""

    def __init__(self, dirs: GitDirs, refs: Refs, name: str) -> None:
        check_name(f"{_SEEN}{name}")
        self.name = name
        self._dirs = dirs
        self._refs = refs
        self._place = f"{_SEEN}{name}/"

    @property
    def url(self) -> str:
        """Where it lies, as git's config says it; "" when there is no such remote."""
        done = call(["config", "--get", f"remote.{self.name}.url"], self._dirs.work_tree)
        return done.out.decode("utf-8", "replace").strip()

    def check(self) -> None:
        """Raise NotFound when git knows no remote of this name."""
        if not self.url:
            raise NotFound(
                f"{self._dirs.work_tree}: git knows no remote `{self.name}`",
                hint=f"`git init --bare DIR` makes one, `git remote add {self.name} URL` names it",
            )

    def fetch(self, branch: str, *, timeout: float | None = None) -> There:
        """Get what it has of the main line, published to `branch`, and of the runs that its leader has under way.

        Nothing of the workspace changes; what was fetched lies below `refs/ravi/remotes/`. Raises Unavailable.
        """
        short = branch.removeprefix("refs/heads/")
        patterns = [f"refs/heads/{short}*", f"{MAIN}*", f"{LEADER}*", f"{RUNS}*", "refs/ravi/cursor/*"]
        # A ref that is named must be there; a pattern may match nothing, as in an empty remote.
        specs = [f"+{pattern}:{self._place}{pattern.removeprefix('refs/')}" for pattern in patterns]
        words = ["--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules", "--refmap="]
        done = self._git(["fetch", "--quiet", "--prune", *words, self.name, *specs], timeout)
        if done.code:
            raise self._away(done)
        there = self.seen(branch)
        self._track(branch, there.branch)
        return there

    def seen(self, branch: str) -> There:
        """What it had when it was last fetched."""
        read, runs = self._read, f"{self._place}{RUNS.removeprefix('refs/')}"
        return There(
            read(branch),
            read(MAIN),
            read(LEADER),
            read(ACTED_ON),
            {name.removeprefix(runs): oid for name, oid in self._refs.list(runs).items()},
        )

    def push(self, updates: Iterable[Update], *, timeout: float | None = None) -> None:
        """Move all these refs there, or none. Raises Moved when one is not where it must be, Refused, Unavailable."""
        wanted = list(updates)
        leases = [f"--force-with-lease={one.ref}:{one.old or ''}" for one in wanted]
        specs = [f"{one.new or ''}:{one.ref}" for one in wanted]
        words = ["--porcelain", "--atomic", "--no-verify", "--no-recurse-submodules"]
        done = self._git(["push", *words, *leases, self.name, *specs], timeout)
        if done.code:
            raise self._rejected(done)
        for one in wanted:
            self._note(one.ref, one.new)

    def leader(self, objects: Objects, *, timeout: float) -> Lead | None:
        """Which clone leads, asked for by itself and soon. Raises Unavailable."""
        spec = f"+{LEADER}*:{self._place}{LEADER.removeprefix('refs/')}*"
        words = ["--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--no-recurse-submodules", "--refmap="]
        done = self._git(["fetch", "--quiet", "--prune", *words, self.name, spec], timeout)
        if done.code:
            raise self._away(done)
        return read_lead(objects, self._read(LEADER))

    # -- steps

    def _read(self, ref: str) -> str | None:
        return self._refs.read(self._place + ref.removeprefix("refs/"))

    def _note(self, ref: str, new: str | None) -> None:
        """Remember what was just pushed. It is a memory of another place: whoever comes later fetches again."""
        name = self._place + ref.removeprefix("refs/")
        with contextlib.suppress(Conflict, Unavailable):
            old = self._refs.read(name)
            if new is None and old is not None:
                self._refs.delete(name, old)
            elif new is not None and new != old:
                self._refs.swap(name, new, old)

    def _track(self, branch: str, tip: str | None) -> None:
        """Move git's own `origin/main` along, so that `git status` is right; not by git, whose lock a kill leaves."""
        name = f"refs/remotes/{self.name}/{branch.removeprefix('refs/heads/')}"
        with contextlib.suppress(Conflict, Unavailable):
            old = self._refs.read(name)
            if tip is not None and tip != old:
                self._refs.swap(name, tip, old)

    def _git(self, args: Sequence[str], timeout: float | None) -> Finished:
        """Run git with the user's way to the remote. Its output goes to files: an ssh left behind may hold a pipe."""
        import subprocess
        import tempfile

        env = environment() | {name: text for name, text in os.environ.items() if name.startswith(_TRANSPORT)}
        safe = [word for setting in _QUIET for word in ("-c", setting)]
        is_alone = not _has_terminal()  # else ssh may ask for a passphrase
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    ["git", *GIT_SAFE, *safe, *args],
                    cwd=self._dirs.work_tree,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=env,
                    start_new_session=is_alone,
                )
            except FileNotFoundError as fault:
                raise Unavailable("git is not found on PATH", hint="install git 2.38 or newer") from fault
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise Unavailable(
                    f"remote {self.name} ({self._shown}): no answer after {timeout:g}s", hint=_LATER
                ) from None
            finally:
                if process.poll() is None:
                    _end(process, with_group=is_alone)
            out.seek(0)
            err.seek(0)
            return Finished(process.returncode, out.read(), err.read())

    def _away(self, done: Finished) -> Unavailable:
        return Unavailable(f"remote {self.name} ({self._shown}): {_words(done)}", hint=_LATER)

    def _rejected(self, done: Finished) -> Conflict | Refused | Unavailable:
        """Why a push failed: the remote moved, or does not want it, or is away."""
        lines = [line.split("\t") for line in done.out.decode("utf-8", "replace").splitlines()]
        reasons = [line[-1] for line in lines if line[0] == "!"]
        if not reasons:
            return self._away(done)
        others = [reason for reason in reasons if not any(word in reason for word in _MOVED)]
        if not others:
            return Moved(f"remote {self.name}: somebody else pushed just now: {reasons[0]}")
        hint = "look at the remote's settings"
        if "currently checked out" in _words(done) + others[0]:
            hint = "it has a checkout of its own; clones share a bare repository (`git init --bare`)"
        return Refused(f"remote {self.name} ({self._shown}): {others[0]}", hint=hint)

    @property
    def _shown(self) -> str:
        """Its URL without a password."""
        scheme, mark, rest = self.url.partition("://")
        who, at, where = rest.partition("@")
        return f"{scheme}{mark}{where}" if at and ":" in who and "/" not in who else self.url


def clone(url: str, folder: str) -> None:
    """Make a clone of a workspace in an empty folder, with git's own words where that fails. Raises Unavailable."""
    import subprocess

    env = environment() | {name: text for name, text in os.environ.items() if name.startswith(_TRANSPORT)}
    words = ["git", *GIT_SAFE, "clone", "--quiet", "--no-recurse-submodules", "--", url, folder]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env=env, check=False)
    if done.returncode:
        raise Unavailable(f"{folder}: {_words(Finished(done.returncode, done.stdout, done.stderr))}")


def read_lead(objects: Objects, oid: str | None) -> Lead | None:
    """What a leader's blob says; None where there is none, or it says nothing that can be read."""
    if oid is None:
        return None
    try:
        said = json.loads(objects.blob(oid))
        return Lead(str(said["clone"]), str(said["host"]), int(said["epoch"]), str(said["since"]))
    except (NotFound, ValueError, KeyError, TypeError):
        return None


def clone_id(folder: str) -> str:
    """The id of this clone, made at the first question and kept in `folder`. A copy of the folder is another clone.

    One that was moved is the same one: its file is still that file, or it lies where it lay, on this machine.
    """
    path, here = os.path.join(folder, "clone"), f"{os.uname().nodename}:{os.path.realpath(folder)}"
    is_copy = False
    with contextlib.suppress(FileNotFoundError):
        if id := _own_id(path, here):
            return id
        is_copy = True
    make_folders(folder)
    part = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    id = os.urandom(5).hex()
    write_new(part, b"")
    inode = os.stat(part).st_ino
    with open(part, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{id}\n{inode}\n{here}\n")
        file.flush()
        os.fsync(file.fileno())
    if is_copy:
        os.replace(part, path)
    else:
        with contextlib.suppress(FileExistsError):  # of many that ask at once the first one names it
            os.link(part, path)
        os.unlink(part)
    sync_folder(folder)
    return _own_id(path, here)


# -- steps

_LATER = "nothing is lost; `ravi sync` goes on when it is back"


def _own_id(path: str, here: str) -> str:
    """The id that is written at `path`, if it was written for this clone; else ""."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        inode = os.fstat(file.fileno()).st_ino
        id, was, place = [*file.read().splitlines(), "", "", ""][:3]
    return id if str(inode) == was or place == here else ""


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def _end(process: object, *, with_group: bool) -> None:
    """End a git that does not answer, and the ssh that it waits for."""
    import subprocess

    assert isinstance(process, subprocess.Popen)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            if with_group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
            return


def _words(done: Finished) -> str:
    """What git said, in one line, without its advice."""
    lines = done.err.decode("utf-8", "replace").splitlines()
    said = [line.removeprefix("fatal: ").removeprefix("error: ").strip() for line in lines]
    told = [line for line in said if line and not line.startswith(("hint:", "Please make sure", "and the repository"))]
    return "; ".join(told[:3]) or f"git ended with {done.code}"
