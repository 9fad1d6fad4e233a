"""What the fault tests share: seeded chance, people at work, a daemon that can be hurt, and the one checker.

The checker knows nothing of ravi's own code: it reads what git says, what lies on the disk, and what runs.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

FULL = os.environ.get("RAVI_FAULTS") == "full"
SEED = os.environ.get("RAVI_SEED", "1")
MAIN, PUBLISHED, CURSOR = "refs/ravi/main", "refs/ravi/published", "refs/ravi/cursor/engine"
DONE = "done"

Workspace = Any  # the one of the fixture; a conftest cannot be imported from here


def size(smoke: int, full: int) -> int:
    """How much of something: little in every day's tests, all of it when asked (RAVI_FAULTS=full)."""
    return full if FULL else smoke


def chance(*about: object) -> random.Random:
    """Chance that comes out the same every time, for one use; RAVI_SEED makes another."""
    return random.Random(":".join(map(str, (SEED, *about))))


def eventually(claim: Callable[[], Any], seconds: float = 30.0, said: Callable[[], str] = lambda: "") -> Any:
    """Wait for a claim to become true, and fail when it does not, with what was said meanwhile."""
    end = time.monotonic() + seconds
    while not (found := claim()):
        assert time.monotonic() < end, f"it never became true; {said()}"
        time.sleep(0.005)
    return found


def at(workspace: Workspace, root: Path) -> Workspace:
    """The same person, in another folder."""
    return type(workspace)(root, workspace.environ)


def copy(workspace: Workspace, root: Path) -> Workspace:
    """A copy of a workspace, to be hurt."""
    shutil.copytree(workspace.root, root, symlinks=True)
    return at(workspace, root)


# -- what was promised


class Finished(NamedTuple):
    """How a command ended, whatever way."""

    code: int
    out: str
    err: str


@dataclass
class Promises:
    """What people were told is safe, and how work must end. Words are unique, so that each can be found again."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # a word -> the command that exited 0 with it
    saved: dict[str, str] = field(default_factory=dict)  # a word -> the file that an editor saved it to
    ends: dict[str, str] = field(default_factory=dict)  # task -> the status that it must come to
    makes: dict[str, str] = field(default_factory=dict)  # task -> what its agent writes below outputs/
    complaints: list[str] = field(default_factory=list)  # what should never be seen, such as a traceback
    refused: Counter[int] = field(default_factory=Counter)  # exit codes of commands that were not acknowledged

    def task(self, name: str, end: str = DONE, makes: str = "") -> None:
        """A task must come to `end` (`done|failed`: one of these); its one successful run brings `makes`."""
        self.ends[name] = end
        if makes:
            self.makes[name] = makes

    def call(self, workspace: Workspace, *words: str, holding: str = "", kill_after: float = 0.0) -> Finished:
        """`ravi WORDS`, perhaps killed. Ended with 0, the word it was `holding` is acknowledged."""
        process = subprocess.Popen(
            [sys.executable, "-m", "ravi", *words], cwd=workspace.root, env=workspace.environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=kill_after or 60)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        if "Traceback" in err:
            self.complaints.append(f"ravi {' '.join(words)}: {err}")
        if process.returncode == 0 and holding:
            self.acknowledged[holding] = " ".join(words)
        elif process.returncode:
            self.refused[process.returncode] += 1
        return Finished(process.returncode, out, err)


class Editor:
    """A person's editor: it opens a file, adds a line with a new word, and saves, as editors do."""

    def __init__(self, workspace: Workspace, promises: Promises, name: str) -> None:
        self.workspace, self.promises, self.name = workspace, promises, name
        self.rng = chance("editor", name)
        self.count = 0

    def word(self) -> str:
        """A word that was never written before."""
        self.count += 1
        return f"{self.name}-{self.count}-{self.rng.getrandbits(32):08x}"

    def new(self, task: str, agent: str, extra: str = "") -> str:
        """Save a new task."""
        path = f"tasks/{self.name}/{task}/TASK.md"
        word = self.word()
        text = f"---\nid: {task}\nstatus: open\nassignee: {agent}\n{extra}---\n# {task}\n\n{word}\n"
        self.save(path, text, in_place=False)
        self.promises.saved[word] = path
        return path

    def add(self, path: str) -> str:
        """Add a line to a file that is there."""
        word = self.word()
        text = (self.workspace.root / path).read_text()
        self.save(path, f"{text.rstrip()}\n\n{word}\n", in_place=self.rng.random() < 0.3)
        self.promises.saved[word] = path
        return word

    def save(self, path: str, text: str, *, in_place: bool) -> None:
        """Write a file over, or beside and then renamed into place."""
        if not in_place:
            self.workspace.write(path, text)
            return
        with open(self.workspace.root / path, "r+b") as file:  # as `w`, but it makes no file that is not there
            file.truncate()
            file.write(text.encode())


class Daemon:
    """`ravi up` in the background. What it says goes to a file, so that no pipe fills up."""

    def __init__(self, workspace: Workspace, *words: str, under: Iterable[str] = ()) -> None:
        self.workspace = workspace
        self.log = workspace.root.parent / f"{workspace.root.name}.daemon.log"
        self.began = time.monotonic()
        with open(self.log, "ab") as log:
            self.from_ = log.tell()
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "ravi", "up", *words], cwd=workspace.root, env=workspace.environ,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()

    def said(self) -> str:
        """All its words so far."""
        with open(self.log, "rb") as log:
            log.seek(self.from_)
            return log.read().decode("utf-8", "replace")

    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.began

    def until(self, claim: Callable[[], Any], seconds: float = 60.0) -> None:
        """Wait for a claim to become true, as long as it lives."""
        eventually(lambda: claim() or self.process.poll() is not None, seconds, self.said)
        assert claim(), f"it ended with {self.process.returncode}: {self.said()}"

    def kill(self, after: float = 0.0) -> None:
        """End it as a power cut of the process would: SIGKILL, at the moment that is told."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(after)
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it in order."""
        self.process.terminate()
        return self.process.wait(60)

    def is_leading(self) -> bool:
        """True from when it holds the workspace."""
        try:
            return (self.workspace.root / ".git/ravi/leader").read_text().startswith(f"{self.process.pid}\n")
        except FileNotFoundError:
            return False


# -- reading what git has, without ravi


class Commit(NamedTuple):
    """A commit of the main line and what it changed there: path -> blob, or "" where it was removed."""

    oid: str
    parents: tuple[str, ...]
    author: str
    subject: str
    run: str
    changes: Mapping[str, str]


def ref(workspace: Workspace, name: str) -> str:
    """Where a ref stands; "" when it is missing."""
    found = git(workspace, "rev-parse", "--verify", "--quiet", name, ok=(0, 1))
    return found.decode().strip()


def git(workspace: Workspace, *words: str, feed: bytes | None = None, ok: tuple[int, ...] = (0,)) -> bytes:
    """What git says, in bytes."""
    done = subprocess.run(
        ["git", "-c", "core.quotePath=false", *words],
        check=False,
        cwd=workspace.root,
        env=workspace.environ,
        input=feed,
        capture_output=True,
    )
    assert done.returncode in ok, (words, done.stderr.decode())
    return done.stdout


def main_line(workspace: Workspace, since: str = "") -> list[Commit]:
    """The main line, oldest first."""
    form = "%x01%H%x02%P%x02%ae%x02%s%x02%(trailers:key=Ravi-Run,valueonly,separator=%x2C)%x03"
    told = git(
        workspace, "log", "--first-parent", "--diff-merges=first-parent", "--raw", "--no-abbrev", "--no-renames",
        "--root", "--reverse", f"--format={form}", f"{since}..{MAIN}" if since else MAIN,
    ).decode("utf-8", "replace")  # fmt: skip
    return [_commit(one) for one in told.split("\x01")[1:]]


def _commit(told: str) -> Commit:
    head, _, raw = told.partition("\x03")
    oid, parents, author, subject, run = head.split("\x02")
    changes = {}
    for line in raw.split("\n"):
        if line.startswith(":"):
            words, path = line.split("\t", 1)
            changes[path] = "" if words.endswith("D") else words.split()[3]
    return Commit(oid, tuple(parents.split()), author, subject, run.strip(), changes)


def blobs(workspace: Workspace) -> dict[str, bytes]:
    """Every file that any ref reaches, by oid."""
    oids = {line.split()[0] for line in git(workspace, "rev-list", "--objects", "--all").split(b"\n") if line}
    told = git(workspace, "cat-file", "--batch", feed=b"\n".join(sorted(oids)) + b"\n")
    found: dict[str, bytes] = {}
    place = 0
    while place < len(told):
        end = told.index(b"\n", place)
        oid, kind, length = told[place:end].split()
        place = end + 1 + int(length) + 1
        if kind == b"blob":
            found[oid.decode()] = told[end + 1 : place - 1]
    return found


def tree(workspace: Workspace, commit: str = MAIN) -> dict[str, str]:
    """The files of a commit: path -> blob."""
    lines = git(workspace, "ls-tree", "-r", "-z", commit).decode("utf-8", "replace").split("\0")
    return {path: words.split()[2] for words, path in (line.split("\t", 1) for line in lines if line)}


def key(data: bytes, name: str) -> str:
    """A plain key of a front matter, read as simply as can be."""
    front = data.replace(b"\r\n", b"\n").partition(b"\n---")[0].decode("utf-8", "replace")
    found = re.search(rf"^{name}:[ \t]*(.*?)[ \t]*(?:#.*)?$", front, re.MULTILINE)
    return found[1].strip("\"'") if found else ""


def orphans(workspace: Workspace) -> list[str]:
    """Processes that carry a run of this workspace in their environment."""
    home = f"RAVI_WORKSPACE={os.path.realpath(workspace.root)}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            environ = Path("/proc", pid, "environ").read_bytes().split(b"\0")
            if home in environ and any(word.startswith(b"RAVI_RUN=") for word in environ):
                command = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{pid} {command}")
    return found


# -- the checker


@dataclass
class Checked:
    """What the checker found: faults in words, and what there was."""

    faults: list[str] = field(default_factory=list)
    commits: int = 0
    runs: int = 0
    succeeded: int = 0
    interrupted: int = 0
    lost: int = 0
    doubled: int = 0
    half: int = 0
    in_place: int = 0  # saved words that still lie in the file they were saved to


def check(
    workspace: Workspace,
    promises: Promises,
    *,
    ledger: Path | None = None,
    is_reverted: bool = False,
    may_have: tuple[str, ...] = (),
    up: bool = True,
) -> Checked:
    """Let ravi work off what is left, then look at everything that was promised. Fails with all faults at once.

    `ledger` is the file where agents write their run's id when they begin. With `is_reverted` a person took runs back,
    so that they are not all on the main line. `may_have` are paths that git may show as changed.
    """
    found = Checked()
    if up:
        done = promises.call(workspace, "up", "--until-idle", "--timeout", "120s")
        if done.code not in (0, 1):
            found.faults.append(f"`ravi up --until-idle` ended with {done.code}: {done.out}{done.err}")
    found.faults += promises.complaints
    found.faults += _repository(workspace, may_have)
    files = blobs(workspace)
    lying = tree(workspace)
    _words(workspace, promises, files, lying, found)
    line = main_line(workspace)
    found.commits = len(line)
    if not is_reverted:
        _runs(promises, files, lying, line, found)
    _ends(promises, files, lying, found)
    if ledger is not None and ledger.exists():
        twice = {run: n for run, n in Counter(ledger.read_text().split()).items() if n > 1}
        found.doubled += len(twice)
        found.faults += [f"run {run} was started {n} times" for run, n in twice.items()]
    found.faults += _index(workspace)
    assert not found.faults, f"seed {SEED}, {workspace.root}:\n" + "\n".join(f"- {fault}" for fault in found.faults)
    return found


def _repository(workspace: Workspace, may_have: tuple[str, ...]) -> Iterator[str]:
    """git is sound, everything stands at the same commit, and nothing of the work is left lying about."""
    done = subprocess.run(
        ["git", "fsck", "--strict", "--no-dangling", "--no-progress"],
        check=False, cwd=workspace.root, env=workspace.environ, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode or done.stdout.strip():
        yield f"git fsck: {done.returncode} {done.stdout}{done.stderr}"
    tips = {name: ref(workspace, name) for name in (MAIN, PUBLISHED, "HEAD", "refs/heads/main", CURSOR)}
    if len(set(tips.values())) != 1:
        yield f"these differ: {tips}"
    status = git(workspace, "status", "--porcelain", "--untracked-files=all").decode().splitlines()
    if dirty := [line for line in status if line[3:] not in may_have]:
        yield f"git status: {dirty}"
    inside = workspace.root / ".git"
    for place in inside.rglob("*"):
        name = str(place.relative_to(inside))
        if not name.startswith("ravi/") and re.search(r"\.lock$|next-index|^ravi-", name):
            yield f"left behind: .git/{name}"
        if name == "ravi/publish.json" or name.startswith("ravi/live/"):
            yield f"left behind: .git/{name}: {place.read_bytes()!r}"
    yield from (f"left behind: {p}" for p in workspace.root.rglob(".ravi-*") if ".git" not in p.parts)
    lanes = workspace.root / ".ravi/lanes"
    yield from (f"a lane is left: {name}" for name in (os.listdir(lanes) if lanes.exists() else ()))
    if left := _lasting(lambda: orphans(workspace)):
        yield f"processes are left: {left}"


def _lasting(look: Callable[[], list[str]], seconds: float = 2.0) -> list[str]:
    """What is still there after a moment: a killed process needs one to be gone."""
    end = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _words(
    workspace: Workspace, promises: Promises, files: Mapping[str, bytes], lying: Mapping[str, str], found: Checked
) -> None:
    """Every acknowledged word and every saved one can be read in some version of some file."""
    wanted = {**promises.acknowledged, **promises.saved}
    everything = b"\0".join(files.values()) + git(workspace, "log", "--format=%B", MAIN)
    for word, where in wanted.items():
        if word.encode() not in everything and not _lies(workspace.root / promises.saved.get(word, "\0"), word):
            found.lost += 1
            found.faults.append(f"lost: {word} ({where})")
    for word, path in promises.saved.items():
        found.in_place += path in lying and word.encode() in files[lying[path]]


def _lies(path: Path, word: str) -> bool:
    """True when a word is in a file that is the person's alone."""
    try:
        return word.encode() in path.read_bytes()
    except (OSError, ValueError):
        return False


def _runs(
    promises: Promises,
    files: Mapping[str, bytes],
    lying: Mapping[str, str],
    line: list[Commit],
    found: Checked,
) -> None:
    """Each run came back once, whole; each piece of work succeeded once."""
    came = Counter(one.run for one in line if one.run and len(one.parents) > 1)
    ends = {path: files[blob] for path, blob in lying.items() if path.endswith("/RUN.md") and "/runs/" in path}
    found.runs = len(ends)
    for run in (run for run, n in came.items() if n > 1):
        found.doubled += 1
        found.faults.append(f"run {run} came back {came[run]} times")
    pieces: Counter[tuple[str, str]] = Counter()
    for path, data in ends.items():
        status, run = key(data, "status"), key(data, "id")
        found.succeeded += status == "succeeded"
        found.interrupted += status == "interrupted"
        if came[run] != 1:
            found.half += 1
            found.faults.append(f"{path}: run {run} is on the main line without a merge commit of its own")
        if status == "running":
            found.half += 1
            found.faults.append(f"{path}: {run} is still live on the main line")
        if status == "succeeded":
            pieces[key(data, "task"), key(data, "first")] += 1
    for piece in (piece for piece, n in pieces.items() if n > 1):
        found.doubled += 1
        found.faults.append(f"the piece of work {piece} was finished {pieces[piece]} times")
    for commit in line:
        _half(commit, promises, files, found)


def _half(commit: Commit, promises: Promises, files: Mapping[str, bytes], found: Checked) -> None:
    """Outputs, RUN.md and the task's status arrive together or not at all."""
    ended = [path for path in commit.changes if path.endswith("/RUN.md") and "/runs/" in path]
    outputs = [path for path in commit.changes if "/outputs/" in path and path.startswith("tasks/")]
    said = []
    if outputs and not ended and commit.author.endswith("@agents.invalid"):
        said.append(f"outputs without RUN.md: {outputs}")
    for path in ended:
        data = files.get(commit.changes[path], b"")
        folder = path.split("/runs/")[0]
        task = f"{folder}/TASK.md"
        if key(data, "status") != "succeeded":
            continue
        now = files.get(commit.changes.get(task, ""), b"")
        if key(now, "status") in ("", "open") and "waiting_on" not in now.decode("utf-8", "replace"):
            said.append(f"{path} succeeded, and {task} does not say so")
        makes = promises.makes.get(key(data, "task"))
        if makes and f"{folder}/outputs/{makes}" not in commit.changes:
            said.append(f"{path} succeeded without {makes}")
    found.half += len(said)
    found.faults += [f"half a run in {commit.oid[:9]} ({commit.subject}): {words}" for words in said]


def _ends(promises: Promises, files: Mapping[str, bytes], lying: Mapping[str, str], found: Checked) -> None:
    """Every task came to the end that its agent gives it."""
    status = {}
    for path, blob in lying.items():
        if path.startswith("tasks/") and path.endswith("/TASK.md") and "/outputs/" not in path:
            status[key(files[blob], "id")] = key(files[blob], "status")
    for task, end in promises.ends.items():
        if status.get(task, "missing") not in end.split("|"):
            found.faults.append(f"task {task} is {status.get(task, 'missing')}, not {end}")


def _index(workspace: Workspace) -> Iterator[str]:
    """What the index says is what one made from nothing would say."""
    before = workspace.json("tasks", "list", "--all")
    for name in os.listdir(workspace.root / ".ravi"):
        if name.startswith("index.sqlite"):
            (workspace.root / ".ravi" / name).unlink()
    after = workspace.json("tasks", "list", "--all")
    if before != after:
        differ = [(one, other) for one, other in zip(before, after, strict=False) if one != other]
        yield f"the index is wrong: {len(before)} and {len(after)} tasks, {differ[:3]}"


# -- figures


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
