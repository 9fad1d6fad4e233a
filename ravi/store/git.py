"""The git program and the lay of a repository: where its folders are, and how to run git so that nothing of the
repository's own configuration (hooks, filters, monitors, pagers) is started by it.
"""

import contextlib
import io
import os
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ravi.errors import NotFound, RaviError, Refused, Unavailable
from ravi.store.durable import write_all

GIT_SAFE = tuple(
    word
    for setting in (
        "core.fsmonitor=false",
        "core.hooksPath=/dev/null",
        "core.pager=cat",
        "core.editor=true",
        "core.askPass=true",
        "core.attributesFile=/dev/null",
        "core.quotePath=false",
        "core.fsync=committed",
        "commit.gpgSign=false",
        "tag.gpgSign=false",
        "log.showSignature=false",
        "diff.external=",
        "gc.auto=0",
        "maintenance.auto=false",
        "submodule.recurse=false",
        "advice.detachedHead=false",
    )
    for word in ("-c", setting)
)
_ADDED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",  # a blob missing in a partial clone is missing; nobody asked for a network
    "LC_ALL": "C",
}
_MISSING_GIT = ("git is not found on PATH", "install git 2.38 or newer")
_LOOKS = 3  # git lists the packs once more on a miss; one that is replaced twice meanwhile it can overlook
_CHUNK = 64  # requests in flight: fewer bytes than the smallest pipe takes, so that neither side waits for ever


class GitDirs(NamedTuple):
    """Where a repository lies. In a linked worktree `git_dir` holds HEAD and index, `common_dir` all the rest."""

    work_tree: str
    git_dir: str
    common_dir: str


class Finished(NamedTuple):
    """How a git command ended."""

    code: int
    out: bytes
    err: bytes


class GitFailed(Unavailable):
    """Git ran and said no. The message has its own words."""


def environment() -> dict[str, str]:
    """Our environment without any GIT_*: an inherited GIT_DIR or GIT_CONFIG_COUNT would be obeyed."""
    return {name: text for name, text in os.environ.items() if not name.startswith("GIT_")} | _ADDED


def call(args: Sequence[str], cwd: str, input: bytes | None = None) -> Finished:
    """Run `git ARGS` to its end, whatever its exit code."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", *GIT_SAFE, *args],
            cwd=cwd,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env=environment(),
            check=False,
        )
    except FileNotFoundError as fault:
        if not os.path.isdir(cwd):
            raise NotFound(f"{cwd}: there is no such folder") from fault
        raise Unavailable(_MISSING_GIT[0], hint=_MISSING_GIT[1]) from fault
    return Finished(done.returncode, done.stdout, done.stderr)


def run(
    args: Sequence[str],
    cwd: str,
    input: bytes | None = None,
    *,
    ok: Collection[int] = (0,),
) -> bytes:
    """What `git ARGS` prints. An exit code that is not in `ok` raises GitFailed with git's own words."""
    done = call(args, cwd, input)
    if done.code not in ok:
        words = done.err.decode("utf-8", "replace").strip() or f"exit code {done.code}"
        raise GitFailed(f"{cwd}: git {args[0]}: {words}")
    return done.out


def find(start: str) -> GitDirs:
    """The repository that holds `start`, without asking git. Raises NotFound, or Refused for one we cannot serve."""
    here = os.path.abspath(start)
    while True:
        dot = os.path.join(here, ".git")
        if os.path.lexists(dot):
            return _opened(here, dot)
        here, below = os.path.dirname(here), here
        if here == below:
            raise NotFound(f"{start}: no git repository here or above", hint="make one with `ravi init`")


def check_format(common_dir: str) -> None:
    """Refuse a repository whose objects or refs are stored in a way that ravi does not write."""
    settings = _settings(os.path.join(common_dir, "config"))
    if (kind := settings.get("extensions.objectformat", "sha1").lower()) != "sha1":
        raise Refused(
            f"{common_dir}: its object format is {kind}; ravi writes sha1 only",
            hint="make the workspace a repository with `git init --object-format=sha1`",
        )
    kind = settings.get("extensions.refstorage", "files").lower().partition(":")[0]
    if kind != "files" or os.path.isdir(os.path.join(common_dir, "reftable")):
        raise Refused(
            f"{common_dir}: its refs are stored as {'reftable' if kind == 'files' else kind}; ravi writes files only",
            hint="convert it with `git refs migrate --ref-format=files`",
        )


class CatFile:
    """One long-lived `git cat-file` that reads objects; started at the first question, and again when it died.

    Not thread-safe: its owner holds a lock. A repack under it is fine, because git looks for new packs on a miss.
    """

    def __init__(self, git_dir: str) -> None:
        self._git_dir = git_dir
        self._pid = 0
        self._to = -1
        self._from: io.BufferedReader | None = None
        self._owner = 0

    def start(self) -> None:
        """Start it ahead of the first question; git gets ready while we do something else."""
        import signal  # 0.5 ms, which a list can do without

        if self._pid and self._owner == os.getpid():
            return
        self._forget()
        argv = ["git", *GIT_SAFE, f"--git-dir={self._git_dir}", "cat-file", "--batch-command", "--buffer"]
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            try:
                their_in, our_out = os.pipe()
                theirs.callback(os.close, their_in)
                ours.callback(os.close, our_out)
                our_in, their_out = os.pipe()
                ours.callback(os.close, our_in)
                theirs.callback(os.close, their_out)
                null = os.open(os.devnull, os.O_WRONLY)
                theirs.callback(os.close, null)
                moves = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate((their_in, their_out, null))]
                # subprocess would do the same and takes 5 ms to import; a group of its own, so that ^C is not for it
                self._pid = os.posix_spawnp(
                    "git", argv, environment(), file_actions=moves, setpgroup=0, setsigdef=[signal.SIGPIPE]
                )
            except FileNotFoundError as fault:
                raise Unavailable(_MISSING_GIT[0], hint=_MISSING_GIT[1]) from fault
            except OSError as fault:
                raise Unavailable(f"git cannot be started: {fault.strerror}") from fault
            ours.pop_all()
        self._to, self._from, self._owner = our_out, io.BufferedReader(io.FileIO(our_in), 1 << 16), os.getpid()

    def contents(self, oids: Sequence[str]) -> list[tuple[str, bytes] | None]:
        """Kind and bytes of each object, None for one that the repository does not have."""
        return self._all("contents", oids)

    def sizes(self, oids: Sequence[str]) -> list[tuple[str, int] | None]:
        """Kind and size of each object, without its bytes."""
        return [answer and (answer[0], int(answer[1])) for answer in self._all("info", oids)]

    def close(self) -> None:
        """End it. The next question starts a new one."""
        if self._owner != os.getpid():  # a fork has our descriptors, not our child
            self._forget()
            return
        pid = self._pid
        self._forget()  # at the end of its input git ends by itself
        if pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _all(self, command: str, oids: Sequence[str]) -> list[tuple[str, bytes] | None]:
        found: list[tuple[str, bytes] | None] = []  # for no question at all, git is not started
        for start in range(0, len(oids), _CHUNK):
            found += self._asked(command, oids[start : start + _CHUNK])
        for _ in range(_LOOKS):
            missing = [n for n, answer in enumerate(found) if answer is None]
            if not missing:
                break
            again = self._asked(command, [oids[n] for n in missing[:_CHUNK]])
            for n, answer in zip(missing, again, strict=False):
                found[n] = answer
        return found

    def _asked(self, command: str, oids: Sequence[str]) -> list[tuple[str, bytes] | None]:
        request = "".join(f"{command} {oid}\n" for oid in oids).encode() + b"flush\n"
        for last in (False, True):
            self.start()
            try:
                write_all(self._to, request)
                return [self._answer(oid, with_bytes=command == "contents") for oid in oids]
            except (OSError, EOFError) as fault:  # it died: killed, or its repository went away
                self._kill()
                if last:
                    raise self._reason(oids[0]) from fault
            except BaseException:  # interrupted between question and answer: the next answer would be the wrong one
                self._kill()
                raise
        raise AssertionError("unreachable")

    def _answer(self, oid: str, *, with_bytes: bool) -> tuple[str, bytes] | None:
        assert self._from is not None
        words = self._from.readline().split()
        if len(words) == 2 and words[1] == b"missing":
            return None
        if len(words) != 3 or words[0] != oid.encode():
            raise EOFError
        if not with_bytes:
            return words[1].decode(), words[2]
        size = int(words[2])
        data = self._from.read(size + 1)
        if len(data) != size + 1:
            raise EOFError
        return words[1].decode(), data[:-1]

    def _reason(self, oid: str) -> RaviError:
        try:
            run([f"--git-dir={self._git_dir}", "cat-file", "-t", oid], cwd=os.sep)
        except RaviError as fault:
            return fault
        return Unavailable(f"{self._git_dir}: git cat-file ended while reading {oid}")

    def _kill(self) -> None:
        import signal

        if self._pid and self._owner == os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self.close()

    def _forget(self) -> None:
        if self._from is not None:
            self._from.close()
            with contextlib.suppress(OSError):
                os.close(self._to)
        self._pid, self._to, self._from, self._owner = 0, -1, None, os.getpid()


def _opened(work_tree: str, dot: str) -> GitDirs:
    git_dir = dot
    if os.path.isfile(dot):  # a linked worktree or a submodule
        with open(dot, encoding="utf-8", errors="surrogateescape") as file:
            word, _, path = file.read().partition(":")
        if word.strip() != "gitdir":
            raise Unavailable(f"{dot}: it does not say `gitdir: PATH`")
        git_dir = os.path.normpath(os.path.join(work_tree, path.strip()))
    common_dir = git_dir
    if os.path.isfile(shared := os.path.join(git_dir, "commondir")):
        with open(shared, encoding="utf-8", errors="surrogateescape") as file:
            common_dir = os.path.normpath(os.path.join(git_dir, file.read().strip()))
    for path in (os.path.join(git_dir, "HEAD"), os.path.join(common_dir, "objects")):
        if not os.path.lexists(path):
            raise Unavailable(f"{dot}: not a git repository: {path} is missing", hint="look with `git status`")
    check_format(common_dir)
    return GitDirs(work_tree, git_dir, common_dir)


_SECTION = re.compile(r"\s*\[([A-Za-z0-9.-]+)\]\s*")
_SETTING = re.compile(r"\s*([A-Za-z][A-Za-z0-9-]*)\s*(?:=\s*\"?([^\"#;\n]*))?")


def _settings(path: str) -> dict[str, str]:
    """The plain settings of a config file, as far as the format of a repository needs them (no includes)."""
    found: dict[str, str] = {}
    section = ""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return found
    for line in lines:
        if line.lstrip().startswith("["):
            head = _SECTION.match(line)
            section, line = (head[1].lower(), line[head.end() :]) if head else ("", "")
        if section and (setting := _SETTING.match(line)):
            found[f"{section}.{setting[1].lower()}"] = (setting[2] or "true").strip()
    return found
