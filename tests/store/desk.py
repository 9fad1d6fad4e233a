"""A person at their desk: an editor, git, and ravi at work in the same checkout."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import workshop
from workshop import PLAIN, Clock, Store, puts

from ravi.core import document
from ravi.store.checkout import person
from ravi.store.ingest import Ingest, Recorded
from ravi.store.publish import Checkpoint, Published, Publisher
from ravi.store.refs import MAIN, PUBLISHED


@dataclass
class Desk:
    """One workspace, with everything of the store that touches the person's files."""

    store: Store
    publisher: Publisher
    ingest: Ingest
    root: Path
    clock: Clock
    count: int = field(default=0)

    # -- what the person does

    def git(self, *args: str, env: dict[str, str] | None = None, ok: bool = True) -> str:
        done = subprocess.run(
            ["git", *args], cwd=self.root, capture_output=True, env=os.environ | PLAIN | (env or {}), check=False
        )
        assert done.returncode == 0 or not ok, (args, done.stderr.decode())
        return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")

    def save(self, path: str, text: str) -> None:
        """Save as editors do that write a new file and rename it."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.new~")
        beside.write_bytes(text.encode())
        beside.rename(target)

    def read(self, path: str) -> str:
        return (self.root / path).read_bytes().decode()

    def has(self, path: str) -> bool:
        return os.path.lexists(self.root / path)

    def status(self) -> str:
        return self.git("status", "--porcelain")

    # -- what ravi does

    def change(self, path: str, **keys: document.Value) -> None:
        """Record a change of front matter, as a command or an agent's result would."""
        data = self.recorded(path).encode()
        self.store.writer.record(puts(path, document.edit(data, keys)))

    def write(self, path: str, text: str | None) -> None:
        """Record a file as a whole; None removes it."""
        self.store.writer.record(puts(path, None if text is None else text.encode()))

    def take(self, paths: Iterable[str] | None = None, *, quiet: float = 0.0) -> Recorded:
        """Look at the files and record what differs."""
        self.count += 10
        found = self.ingest.look(paths, now=self.count)
        return self.ingest.record(found, *person(self.store.dirs), now=self.count, quiet=quiet)

    def publish(self) -> Published:
        return self.publisher.publish()

    def settle(self) -> Published:
        """All that a daemon does in one turn: take, publish; and again when the person had committed something."""
        done = self._turn()
        return self._turn() if done.absorbed else done

    def _turn(self) -> Published:
        self.count += 10
        found = self.ingest.look(now=self.count)
        self.count += 10
        name, mail = person(self.store.dirs)
        recorded = self.ingest.record(found, name, mail, now=self.count, quiet=1.0)
        published = self.publish()
        assert not recorded.paused or published.paused
        return published

    # -- what can be checked

    def recorded(self, path: str) -> str:
        tip = self.store.refs.read(MAIN)
        assert tip is not None
        data = self.store.objects.read(tip, path)
        assert data is not None, path
        return data.decode()

    def is_level(self) -> bool:
        """True when branch, main line and what is published are one and the same."""
        return len({self.store.refs.read(name) for name in (MAIN, PUBLISHED, "refs/heads/main")}) == 1

    def history(self) -> str:
        """Every text that was ever committed, on any line."""
        return self.git("log", "--all", "-p", "-m", "--format=%H %an%n%B")

    def kept(self, text: str) -> bool:
        """True when these very bytes are some file of some commit."""
        oid = (
            subprocess.run(
                ["git", "hash-object", "--stdin"], input=text.encode(), capture_output=True, cwd=self.root, check=True
            )
            .stdout.strip()
            .decode()
        )
        return oid in self.git("rev-list", "--all", "--objects")

    def leftovers(self) -> list[str]:
        """Files of ours that should be gone."""
        found = [str(path) for path in self.root.rglob(".ravi-*")]
        beside = [
            p.name for p in (self.root / ".git").iterdir() if p.name.startswith("ravi-") or p.name.endswith(".lock")
        ]
        return (
            found + beside + [p.name for p in (self.root / ".git/ravi").iterdir() if p.name.startswith("publish.json")]
        )


def opened(root: Path, *, checkpoint: Checkpoint = lambda _: None, durable: bool = False) -> Desk:
    """The desk as another process finds it."""
    store = workshop.opened(root)
    publisher = Publisher(
        store.dirs, store.objects, store.refs, store.writer, "main", checkpoint=checkpoint, durable=durable
    )

    def owner_of(id: str) -> str | None:
        tip = store.refs.read(MAIN)
        for path, entry in store.objects.walk(tip, "") if tip else ():
            if path.endswith("/TASK.md") and f"id: {id}\n".encode() in store.objects.blob(entry.oid):
                return path
        return None

    letters = iter(range(1 << 20))
    ingest = Ingest(publisher, owner_of=owner_of, entropy=lambda n: next(letters).to_bytes(n, "big"))
    return Desk(store, publisher, ingest, root, store.clock)


def made(root: Path, files: dict[str, str] | None = None) -> Desk:
    """A workspace with one agent and one task, committed by the person and known to ravi."""
    store = workshop.init(root)
    store.close()
    desk = opened(root)
    desk.git("config", "user.name", "Ada")
    desk.git("config", "user.email", "ada@example.org")
    for path, text in (START if files is None else files).items():
        desk.save(path, text)
    desk.git("add", "-A")
    desk.git("commit", "-q", "-m", "start")
    desk.publish()
    return desk


TASK = "tasks/2026/11/20/a/TASK.md"
OTHER = "tasks/2026/11/20/b/TASK.md"
NOTE = "notes.txt"
START = {
    "ravi.yaml": "name: test\n",
    NOTE: "one\ntwo\nthree\n",
    "agents/ann/AGENT.md": "---\nrunner: command\n---\nBe kind.\n",
    TASK: (
        "---\nid: a\ntitle: First # a comment\nstatus: open\nupdated: 2026-11-20T10:00:00.000Z\n---\n"
        "\nDo it.\n\nThen rest.\n"
    ),
    OTHER: "---\nid: b\ntitle: Second\nstatus: open\n---\nAnd that.\n",
}
