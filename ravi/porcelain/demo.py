"""`ravi demo`: the whole flow in a workspace made for it, with a real daemon, real programs as agents, and real git.

A person saves a task; its agent hands out parts and waits; one part fails and is tried again; the person edits in the
middle of it; the agent is woken once and puts everything together. What is shown on the way is read from git.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ravi.errors import RaviError, Refused, TimedOut
from ravi.porcelain import start
from ravi.porcelain.shipped import shipped
from ravi.store import git

LIMIT = 60.0  # seconds for each step; the whole takes a few
_PACE = 0.05  # seconds between looks at the refs
_TASK = "tasks/overview/TASK.md"
_LATE = "notes/retries.md"  # the note that is not there at first
_RESULT = "tasks/overview/outputs/overview.md"
_FORM = "%H%x00%an%x00%ae%x00%s%x00%P%x00%(trailers:key=Ravi-Run,valueonly)%x1e"


@dataclass(frozen=True, slots=True)
class _Commit:
    """One commit of the workspace, as `git log` tells it."""

    oid: str
    subject: str
    parents: int
    run: str

    @property
    def is_end_of_a_run(self) -> bool:
        return self.parents > 1 and bool(self.run)

    @property
    def is_worth_telling(self) -> bool:
        """False for what a run says on its own branch between start and end: it comes again with the merge."""
        return not self.subject.startswith("run ") or self.is_end_of_a_run or ": started by" in self.subject


def demo(folder: str, environ: Mapping[str, str], *, keep: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Play it all through and tell what came of it. Raises RaviError when something did not happen."""
    root = _made_folder(folder)
    story = _Story(root, {name: value for name, value in environ.items() if not name.startswith("RAVI_")}, say)
    try:
        _play(story)
        told = story.told()
        _check(story, told)
    except RaviError as error:
        keep = True  # there is something to look at
        error.hint = error.hint or f"the workspace is {root}; what `ravi up` said is in {root}/.ravi/logs/demo.log"
        raise
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
    return {**told, "kept": keep, "ok": True}


def _made_folder(folder: str) -> str:
    if not folder:
        return os.path.realpath(tempfile.mkdtemp(prefix="ravi-demo-"))
    root = os.path.realpath(folder)
    if os.path.lexists(root) and (not os.path.isdir(root) or os.listdir(root)):
        raise Refused(f"{folder}: is there already", hint="name a new folder")
    return root


def _play(story: "_Story") -> None:
    """The story itself; each step waits until git shows what it waits for."""
    story.say(f"a workspace in {story.root}; its agents are three small programs")
    start.init(story.root, story.environ, example=True)
    os.unlink(story.path(_LATE))
    with story.daemon():
        story.you(f"save {_TASK} with `status: open`; the editor is its assignee")
        story.save(_TASK, lambda text: text.replace("status: draft", "status: open"))
        story.until("the editor hands the notes out", lambda commit: _ends(commit, "overview.1"))
        story.until("one note is not there", lambda commit: commit.is_end_of_a_run and " failed" in commit.subject)

        story.you("edit the order meanwhile: longest first, and one more label")
        story.save(_TASK, _reordered)
        story.until("your edit is a commit of yours", lambda commit: story.holds(commit, _TASK, "Order: longest first"))

        story.you(f"write the missing {_LATE}")
        with open(os.path.join(shipped("workspace.example"), _LATE), encoding="utf-8") as file:
            note = file.read()
        story.save(_LATE, lambda _: note)
        story.until("the editor is woken when all notes are read", lambda commit: _ends(commit, "overview.2"))
        story.until_there(_RESULT)


def _ends(commit: _Commit, run: str) -> bool:
    return commit.is_end_of_a_run and commit.run == run


def _reordered(text: str) -> str:
    return text.replace("Order: by name", "Order: longest first").replace("[notes]", "[notes, weekly]")


def _check(story: "_Story", told: Mapping[str, Any]) -> None:
    """Say what did not happen as it should."""
    status = {run["id"]: run["status"] for run in story.ravi("runs", "list")}
    order, result = story.read(_TASK), story.read(_RESULT)
    words = [int(count) for count in re.findall(r"\b(\d+) words, \d+ headings", result)]
    parts = [task for task in told["tasks"] if task["id"] not in ("overview", "links")]
    claims = {
        "the order became three parts": len(parts) == 3,
        "every part and the order are done": all(t["status"] == "done" for t in told["tasks"] if t["id"] != "links"),
        "a failed attempt was tried again": "failed" in status.values(),
        "the editor was woken exactly once": {run for run in status if run.startswith("overview.")}
        == {"overview.1", "overview.2"},
        "your label and your order were kept": "[notes, weekly]" in order and "Order: longest first" in order,
        "the overview is longest first": len(words) == 3 and words == sorted(words, reverse=True),
        "all that is recorded is on the branch": story.git("rev-parse", "HEAD")
        == story.git("rev-parse", "refs/ravi/main"),
    }
    for claim, holds in claims.items():
        if not holds:
            raise RaviError(f"the demo did not go as it should; not true: {claim}")


class _Story:
    """A workspace that is watched from outside, by git alone, while a daemon works in it."""

    def __init__(self, root: str, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.root = root
        self.environ = environ
        self._say = say
        self._began = time.monotonic()
        self._seen: dict[str, _Commit] = {}
        self._daemon: subprocess.Popen[bytes] | None = None

    def say(self, text: str, who: str = "") -> None:
        self._say(f"{time.monotonic() - self._began:5.1f}s  {who:<11} {text}")

    def you(self, text: str) -> None:
        self.say(text, "you:")

    def path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def read(self, name: str) -> str:
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def save(self, name: str, change: Callable[[str], str]) -> None:
        """Save as most editors do: a new file beside the old one, renamed over it."""
        path = self.path(name)
        part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
        text = change(self.read(name) if os.path.exists(path) else "")
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path)

    def git(self, *words: str) -> str:
        return git.run(words, self.root).decode()

    def ravi(self, *words: str) -> Any:
        """What `ravi … --json` answers about the workspace."""
        command = [sys.executable, "-m", "ravi", "--json", *words]
        asked = subprocess.run(
            command, cwd=self.root, env=self.environ, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if asked.returncode:
            raise RaviError(f"`ravi {' '.join(words)}`: {asked.stderr.decode(errors='replace').strip()}")
        return json.loads(asked.stdout)

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """`ravi up`, from here to the end of the block; it must end well when asked to."""
        self.say("`ravi up` watches it")
        log = self.path(".ravi/logs/demo.log")
        os.makedirs(os.path.dirname(log), exist_ok=True)
        command = [sys.executable, "-m", "ravi", "up", "--timeout", f"{LIMIT * 4:.0f}s"]
        with open(log, "wb") as out:
            daemon = subprocess.Popen(
                command, cwd=self.root, env=self.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        self._daemon = daemon
        try:
            yield
            daemon.send_signal(signal.SIGTERM)
            if daemon.wait(LIMIT) != 0:
                raise RaviError(f"`ravi up` was asked to end and exited with {daemon.returncode}")
        except subprocess.TimeoutExpired:
            raise TimedOut(f"`ravi up` was asked to end and did not within {LIMIT:.0f}s") from None
        finally:
            daemon.kill()
            daemon.wait()

    def until(self, what: str, is_it: Callable[[_Commit], bool]) -> None:
        """Wait for a commit, among those that are there or come, and tell what comes by."""
        looked_at: set[str] = set()

        def has_come() -> bool:
            self._look()
            fresh = [commit for oid, commit in self._seen.items() if oid not in looked_at]
            looked_at.update(commit.oid for commit in fresh)
            return any(is_it(commit) for commit in fresh)

        self._wait(what, has_come)

    def until_there(self, name: str) -> None:
        """Wait for a file: what is recorded is written out a moment later."""
        self._wait(f"{name} is there", lambda: os.path.exists(self.path(name)))

    def holds(self, commit: _Commit, name: str, text: str) -> bool:
        """True when a file as of `commit` holds `text`."""
        shown = git.call(["show", f"{commit.oid}:{name}"], self.root)
        return shown.code == 0 and text in shown.out.decode()

    def told(self) -> dict[str, Any]:
        """What there is in the end."""
        tasks = self.ravi("tasks", "list", "--all")
        return {
            "workspace": self.root,
            "tasks": [{key: task[key] for key in ("id", "status", "title")} for task in tasks],
            "commits": len(self.git("rev-list", "HEAD").split()),
            "seconds": round(time.monotonic() - self._began, 1),
            "result": self.read(_RESULT),
            "graph": self.git("log", "--graph", "--format=%h  %an: %s", "HEAD").rstrip(),
        }

    def _wait(self, what: str, has_come: Callable[[], bool]) -> None:
        assert self._daemon is not None
        end = time.monotonic() + LIMIT
        while not has_come():
            try:
                self._daemon.wait(_PACE)
            except subprocess.TimeoutExpired:
                if time.monotonic() > end:
                    raise TimedOut(f"not within {LIMIT:.0f}s: {what}") from None
            else:
                raise RaviError(f"`ravi up` ended with {self._daemon.returncode} before this came true: {what}")

    def _look(self) -> None:
        """Read what git has by now, and tell what was not there before."""
        logged = self.git("log", "--reverse", f"--format={_FORM}", "--glob=refs/ravi/runs", "refs/ravi/main")
        for record in logged.split("\x1e")[:-1]:
            oid, author, mail, subject, parents, run = (part.strip() for part in record.split("\0"))
            if oid in self._seen:
                continue
            who = author if mail.endswith("@agents.invalid") else "you"
            commit = _Commit(oid, subject, len(parents.split()), run)
            self._seen[oid] = commit
            if parents and commit.is_worth_telling:
                self.say(subject, f"{who}:")
            if commit.is_end_of_a_run and " and was the last" in subject:
                raise RaviError(subject)
