"""The git workspace as one thing: its documents at a commit, its one writer, its runs, and what is kept beside it."""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ravi.core.times import stamp
from ravi.errors import Conflict, Refused
from ravi.store import git
from ravi.store.index import Index, IndexView
from ravi.store.refs import MAIN, PUBLISHED, RUNS, Refs

if TYPE_CHECKING:  # a list needs none of these
    from pathlib import Path

    from ravi.core.run import Run
    from ravi.store.ingest import Ingest, Recorded
    from ravi.store.lanes import Lanes
    from ravi.store.links import OpenLinks
    from ravi.store.notes import Notes
    from ravi.store.objects import Objects, Signature
    from ravi.store.publish import Published, Publisher
    from ravi.store.writer import Tip, Writer

FOLDERS = ("tasks", "agents", "sessions", "contacts", "automations", "profiles")
_LATELY = 2000  # commits that are looked through for the last one that touched a task
_RECENT = 2000  # tasks, the last ones written, whose folders are watched though they are closed
Reading = IndexView


class Repository:
    """One workspace's store. Parts are made when first used, because most commands need few of them."""

    def __init__(self, root: str, now: Callable[[], datetime], branch: Callable[[], str]) -> None:
        self.root = root
        self.now = now
        self.dirs = git.find(root)
        if os.path.realpath(self.dirs.work_tree) != os.path.realpath(root):
            raise Refused(
                f"{root}: the workspace is not the root of its repository ({self.dirs.work_tree})",
                hint="run `ravi init` at the root of a repository",
            )
        self.private = os.path.join(root, ".ravi")
        self.beside = os.path.join(self.dirs.common_dir, "ravi")
        self.refs = Refs(self.dirs.git_dir, self.dirs.common_dir)
        self._branch = branch

    def close(self) -> None:
        """Let go of processes and files."""
        if "index" in self.__dict__:
            self.index.close()
        if "objects" in self.__dict__:
            self.objects.close()

    @cached_property
    def objects(self) -> "Objects":
        from ravi.store.objects import Objects

        return Objects(self.dirs.common_dir)

    @cached_property
    def writer(self) -> "Writer":
        from ravi.store.writer import Writer

        return Writer(self.objects, self.refs, self.dirs.common_dir, self.now)

    def lead(self, holder: str) -> None:
        """Begin a new epoch: from now on every other process that led this workspace is refused."""
        self.writer = self.writer.take_over(holder)
        for part in ("publisher", "ingest"):  # they write too
            self.__dict__.pop(part, None)

    @cached_property
    def index(self) -> Index:
        return Index(os.path.join(self._index_folder(), "index.sqlite"), lambda: self.objects)

    def _index_folder(self) -> str:
        """`.ravi`; for who may only read here, a folder of their own."""
        above = self.private if os.path.isdir(self.private) else self.root
        if os.access(above, os.W_OK):
            return self.private
        import hashlib

        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(cache, "ravi", hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16])
        os.makedirs(folder, exist_ok=True)
        return folder

    @cached_property
    def lanes(self) -> "Lanes":
        from ravi.store.lanes import Lanes

        return Lanes(self.dirs, self.objects, os.path.join(self.private, "lanes"))

    @cached_property
    def publisher(self) -> "Publisher":
        from ravi.store.publish import Publisher

        return Publisher(self.dirs, self.objects, self.refs, self.writer, self.branch)

    @cached_property
    def ingest(self) -> "Ingest":
        from ravi.store.ingest import Ingest

        return Ingest(self.publisher, owner_of=self.task_path, entropy=os.urandom)

    @property
    def branch(self) -> str:
        """The main line's branch, as a full ref name."""
        if branch := self._branch():
            return branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        return self.refs.head().branch or "refs/heads/main"

    def tip(self) -> str | None:
        """The last recorded commit."""
        return self.refs.read(MAIN)

    def published(self) -> str | None:
        """What was last written out."""
        return self.refs.read(PUBLISHED)

    def caught_up(self) -> Index:
        """The index, standing at what is recorded by now."""
        tip = self.tip()
        if tip is None and self.refs.head().oid is not None:
            self.adopt()
            tip = self.tip()
        if tip is not None:
            self.index.catch_up(tip)
        return self.index

    @contextmanager
    def view(self) -> Iterator[Reading]:
        """The workspace as recorded by now; it does not change while it is open."""
        index = self.caught_up()
        with index.view(self.unmerged(), now=stamp(self.now())) as view:
            yield view

    def recorded(self, event: str, view: Reading) -> "Callable[[str | None], str | None]":
        """Which commit of the main line records an event, by what `view` knows and what lies between it and a tip."""
        from ravi.core import trailers

        known, found = view.commit, view.event_commit(event)

        def at(here: str | None) -> str | None:
            while found is None and here is not None and here != known:  # what came since we looked
                commit = self.objects.commit(here)
                if trailers.parse(commit.message).trailers.get("Ravi-Event") == event:
                    return here
                here = commit.parents[0] if commit.parents else None
            return found

        return at

    def unmerged(self) -> "Mapping[str, Run]":
        """What the branch of each run says whose end is not on the main line, by run id."""
        return self.caught_up().live(self.refs)

    def run_on_branch(self, id: str) -> "Run | None":
        """A run as its own branch tells it, while its end is not on the main line."""
        return self.unmerged().get(id)

    def is_live(self, id: str) -> bool:
        """True while a run goes on."""
        run = self.run_on_branch(id)
        return run is not None and run.is_live

    def declare(self, run_id: str, outcome: str, summary: str, author: "Signature") -> None:
        """Write on a run's own branch what it says its outcome is; it becomes true when the run ends well."""
        self._amend(run_id, f"says {outcome}", author, outcome=outcome, summary=summary)

    def ask_to_stop(self, run_id: str, who: str, author: "Signature") -> None:
        """Write on a run's own branch that it shall end."""
        self._amend(run_id, f"{who} asks it to stop", author, stop=who)

    def live(self, run_id: str) -> dict[str, Any]:
        """The signs of life of a run: `pid`, `progress`, `seen`. Not truth, and not in git."""
        try:
            with open(self._live_file(run_id), encoding="utf-8") as file:
                note = json.load(file)
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def live_note(self, run_id: str, note: Mapping[str, Any]) -> None:
        """Add to the signs of life of a run."""
        path = self._live_file(run_id)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = f"{path}.{os.getpid()}"
        with open(part, "w", encoding="utf-8") as file:
            json.dump({**self.live(run_id), **note}, file)
        os.replace(part, path)

    def forget(self, run_id: str, *, branch: bool) -> None:
        """Remove what was kept for a live run; with `branch` its ref too (its commits stay, below the merge)."""
        folder, name = os.path.split(self._live_file(run_id))
        with contextlib.suppress(FileNotFoundError):
            for there in os.listdir(folder):
                if there == name or there.startswith(f"{name}."):
                    os.unlink(os.path.join(folder, there))
        if branch and (oid := self.refs.read(RUNS + run_id)):
            self.refs.delete(RUNS + run_id, oid)

    def noted(self) -> frozenset[str]:
        """The runs of which a sign of life lies there, whether they live or not."""
        try:
            names = os.listdir(os.path.join(self.beside, "live"))
        except FileNotFoundError:
            return frozenset()
        return frozenset(name.partition(".json")[0] for name in names)  # a dead writer may have left `ID.json.PID`

    def run_log(self, run_id: str) -> "Path":
        """Where a run's output lies; it may be deleted at any time."""
        from pathlib import Path

        return Path(self.private, "logs", "runs", f"{run_id}.log")

    def folders_to_watch(self) -> Iterator[str]:
        """Where a save should be noticed at once: all but the folders of tasks that are closed and long untouched."""
        from ravi.core.task import CLOSED

        yield ""
        with self.view() as view:
            rows = view.list_tasks(all=True, fields=("path", "status", "updated"))
        rows.sort(key=lambda row: row["updated"], reverse=True)
        known = set()
        for number, row in enumerate(rows):
            folder = row["path"].rpartition("/")[0]
            known.add(folder)
            if row["status"] not in CLOSED or number < _RECENT:
                yield folder
                if os.path.isdir(os.path.join(self.root, folder, "comments")):  # one that comes later is noticed
                    yield f"{folder}/comments"
        todo = [name for name in FOLDERS if os.path.isdir(os.path.join(self.root, name))]
        while todo:  # every folder that is not a task's own
            folder = todo.pop()
            yield folder
            with os.scandir(os.path.join(self.root, folder)) as entries:
                below = [f"{folder}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)]
            todo += [path for path in below if path not in known]
        inside = os.path.relpath(self.dirs.git_dir, self.root)
        if not inside.startswith(".."):
            yield from (inside, f"{inside}/refs/ravi", f"{inside}/refs/ravi/runs", f"{inside}/refs/heads")

    def paused(self) -> str:
        """Why nothing is ingested or published now: what git is in the middle of; "" when it is at rest."""
        from ravi.store import checkout

        return checkout.read(self.dirs, self.refs).pause(self.branch)

    def adopt(self) -> None:
        """Take in what the person committed; a clone that ravi never worked in starts from its HEAD."""
        self.publisher.absorb()

    def publish(self) -> "Published":
        """Write what is recorded out to branch, files and index."""
        return self.publisher.publish()

    def take(self, paths: tuple[str, ...]) -> None:
        """Record a person's saved edits of these files now, without waiting for quiet."""
        self.settle(paths, 0.0, 0.0)

    def settle(self, paths: Iterable[str] | None, now: float, quiet: float) -> "Recorded":
        """Record what people saved at these paths (None: anywhere), as far as it has lain still for `quiet` seconds."""
        found = self.ingest.look(paths, now=now)
        return self.ingest.record(found, *self.person, now=now, quiet=quiet)

    def note_problems(self, files: Mapping[str, str], view: Reading) -> None:
        """Say what is wrong beside each file: what `files` says of them, and what their documents say."""
        told = {row["path"]: _line(row) for row in view.problems() if row["severity"] == "error"}
        self.notes.update({**told, **files}, FOLDERS)

    @cached_property
    def links(self) -> "OpenLinks":
        from ravi.store.links import OpenLinks

        return OpenLinks(self.root)

    def link_open(self, view: Reading, only: Collection[str] | None = None) -> None:
        """Have `open/` lead to the tasks that are not closed; with `only`, look at these tasks alone."""
        if only is None:
            rows = view.list_tasks(fields=("id", "path"))
            self.links.reconcile({row["id"]: row["path"].rpartition("/")[0] for row in rows})
            return
        for id in only:
            task = view.task(id)
            self.links.set(id, task.folder if task is not None and not task.is_closed else "")

    @cached_property
    def notes(self) -> "Notes":
        from ravi.store.notes import Notes

        return Notes(self.root, self.private)

    @cached_property
    def person(self) -> tuple[str, str]:
        """Name and mail of who sits at this machine: git's identity, else the login name."""
        from ravi.store.checkout import person

        return person(self.dirs)

    def task_path(self, id: str) -> str | None:
        """Where the task with this id lies, as recorded."""
        return self.caught_up().task_path(id)

    def claim_of(self, run_id: str, start: str) -> str | None:
        """The commit that claimed a run, found from its merge commit or the tip of its branch."""
        if not start:
            return None
        commit = self.objects.commit(start)
        oid = commit.parents[1] if len(commit.parents) > 1 else start
        mark = f"Ravi-Run: {run_id}\n"
        while True:
            commit = self.objects.commit(oid)
            if not commit.parents or mark not in self.objects.commit(commit.parents[0]).message:
                return oid
            oid = commit.parents[0]

    def cause_of(self, id: str, view: Reading) -> tuple[str, int]:
        """What made a task ready, as far as history tells: the commit of the main line, and its depth.

        The end of the last task that it waited for, else the last commit that touched its folder.
        """
        from ravi.core import trailers

        task = view.task(id)
        if task is None:
            return view.commit, 0
        ends = [runs[-1] for runs in map(view.runs, (*task.waiting_on, *task.depends_on)) if runs and runs[-1].merge]
        commit = max(ends, key=lambda run: run.ended).merge if ends else self._last_touch(task.folder, view.commit)
        told = trailers.parse(self.objects.commit(commit).message).trailers.get("Ravi-Depth", "")
        return commit, int(told) if told.isdecimal() else 0

    def _last_touch(self, folder: str, tip: str) -> str:
        """The last commit of the main line that changed a folder, looked for among the last ones; else the tip."""
        here, is_now = tip, self.objects.entry(self.objects.commit(tip).tree, folder)
        for _ in range(_LATELY):
            parents = self.objects.commit(here).parents
            if not parents or self.objects.entry(self.objects.commit(parents[0]).tree, folder) != is_now:
                return here
            here = parents[0]
        return tip

    def _amend(self, run_id: str, said: str, author: "Signature", **keys: str) -> None:
        from dataclasses import replace

        from ravi.core import run as runs
        from ravi.core.ids import derive_id
        from ravi.core.trailers import Message
        from ravi.store.writer import Draft

        known = self.run_on_branch(run_id)

        def propose(tip: "Tip") -> Draft:
            data = tip.read(known.path) if known is not None else None
            run = runs.parse(known.path, data) if known is not None and data is not None else None
            if run is None or not run.is_live:
                raise Refused(f"run {run_id} has ended")
            changed = replace(run, **keys)  # type: ignore[arg-type] # text fields only, by our two callers
            message = Message(
                f"run {run_id}: {said}",
                "",
                {
                    "Ravi-Event": derive_id("run.says", run_id, said, *keys.values()),
                    "Ravi-Cause": tip.commit or "",
                    "Ravi-Task": run.task,
                    "Ravi-Run": run_id,
                    "Ravi-Agent": run.agent,
                    "Ravi-Depth": str(run.depth),
                },
            )
            return Draft(message, {run.path: runs.render(changed)}, author)

        if self.writer.record(propose, ref=RUNS + run_id) is None:
            raise Conflict(f"run {run_id} says so already")

    def _live_file(self, run_id: str) -> str:
        return os.path.join(self.beside, "live", f"{run_id}.json")


def _line(row: Mapping[str, Any]) -> str:
    """One problem on one line, as `ravi check` tells it."""
    place = f"{row['path']}:{row['line']}" if row["line"] else str(row["path"])
    return ": ".join(part for part in (place, row["key"], row["message"]) if part)
