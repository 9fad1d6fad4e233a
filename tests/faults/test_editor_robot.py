"""Editors of every kind save into the files that ravi changes and publishes at the same time: no save is ever lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.fault

SAVES = 10_000 if os.environ.get("RAVI_FAULTS") == "full" else 540  # of all editors together
KINDS = ("vim", "rename", "sed", "code", "append")
WHOLE = ("rename", "sed")  # these never show a half-written file themselves
PLAIN = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
STAMP = "2026-11-20T10:00:00.000Z"


def task(kind: str, which: int) -> str:
    return f"tasks/{kind}-{which}/TASK.md"


FILES = [task(kind, which) for kind in KINDS for which in (1, 2)]

EDITOR = r"""
import os, random, subprocess, sys, time
kind, root, count, seed, said = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
chance = random.Random(seed)
files = [f"{root}/tasks/{kind}-{n}/TASK.md" for n in (1, 2)]
log = open(said, "w")

def read(path):
    while True:
        try:
            with open(path) as file:
                text = file.read()
        except FileNotFoundError:
            continue
        if text.startswith("---\n"):
            return text

for n in range(count):
    time.sleep(chance.random() * 0.15)
    path = chance.choice(files)
    token = f"{kind}.{n}."
    line = f"- {token}\n"
    if kind == "sed":
        subprocess.run(["sed", "-i", f"s/^END$/- {token}\\nEND/", path], check=True)
    elif kind == "append":
        with open(path, "a") as file:
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.01)
            file.write(line)
    else:
        text = read(path).replace("END\n", line + "END\n")
        time.sleep(chance.random() * 0.03)  # somebody is typing
        if kind == "vim":  # backupcopy=no
            try:
                os.rename(path, path + "~")
            except FileNotFoundError:
                pass
            with open(path, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.unlink(path + "~")
            except FileNotFoundError:
                pass
        elif kind == "rename":
            with open(path + ".tmp", "w") as file:
                file.write(text)
            os.rename(path + ".tmp", path)
        else:  # in place: emptied, then written, in two parts
            with open(path, "w") as file:
                file.write(text[: len(text) // 2])
                file.flush()
                file.write(text[len(text) // 2 :])
    log.write(token + "\n")
    log.flush()
"""

COMMITTER = r"""
import os, random, subprocess, sys, time
root, count, seed, said = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
chance = random.Random(seed)
log = open(said, "w")
refused = 0

def git(*args):
    # what a person does when git says that another one is running, or that HEAD moved: the same again
    global refused
    for _ in range(500):
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True)
        if done.returncode == 0:
            return
        if not any(word in done.stderr for word in ("index.lock", "cannot lock ref", "HEAD.lock")):
            sys.exit(f"git {args}: {done.stdout} {done.stderr}")
        refused += 1
        time.sleep(0.005)
    sys.exit(f"git {args}: never")

for n in range(count):
    time.sleep(chance.random() * 0.05)
    with open(f"{root}/notes.txt", "a") as file:
        file.write(f"- git.{n}.\n")
    match chance.randrange(4):
        case 0:
            git("commit", "-qam", f"note {n}")
        case 1:
            git("add", "notes.txt")
            git("commit", "-qm", f"note {n}")
        case 2:
            git("commit", "-q", "--amend", "--no-edit", "-a")
        case 3:
            git("commit", "-qm", f"note {n}", "notes.txt")
    log.write(f"git.{n}.\n")
    log.flush()
print(refused)
"""

READER = r"""
import os, signal, sys, time
root, files, parent = sys.argv[1], sys.argv[2:], os.getppid()
reads = torn = 0
done = []
signal.signal(signal.SIGTERM, lambda *_: done.append(1))
print("reading", flush=True)
while not done and os.getppid() == parent:
    time.sleep(0.0005)  # leave some of the machine to the others
    for path in files:
        try:
            with open(f"{root}/{path}") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        reads += 1
        if not (text.startswith("---\n") and text.endswith("END\n") and text.count("END\n") == 1):
            torn += 1
print(reads, torn, flush=True)
"""

RAVI = r"""
import os, random, signal, sys, time
from datetime import datetime, UTC
from ravi.core import document
from ravi.core.times import stamp
from ravi.core.trailers import Message
from ravi.errors import Malformed
from ravi.store import git
from ravi.store.ingest import Ingest
from ravi.store.objects import Objects, Signature
from ravi.store.publish import Publisher
from ravi.store.refs import MAIN, Refs
from ravi.store.writer import Draft, Writer

root, seed, said, files = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
chance = random.Random(seed)
dirs = git.find(root)
objects, refs = Objects(dirs.common_dir), Refs(dirs.git_dir, dirs.common_dir)
writer = Writer(objects, refs, dirs.common_dir, lambda: datetime.now(UTC))
publisher = Publisher(dirs, objects, refs, writer, "main", durable=False)
ingest = Ingest(publisher, owner_of=lambda id: None, entropy=os.urandom)
agent = Signature("ann", "ann@agents.invalid", 1700000000)
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
publisher.absorb()
print("at work", flush=True)
log = open(said, "a")
counts = {"written": 0, "held": 0, "commits": 0, "conflicts": 0}

def turn(paths):
    found = ingest.look(paths, now=time.monotonic())
    done = ingest.record(found, "Ada", "ada@example.org", now=time.monotonic(), quiet=0.005)
    counts["commits"] += len(done.commits)
    counts["conflicts"] += sum("at once" in problem.message for problem in done.problems)
    published = publisher.publish()
    counts["written"] += len(published.written)
    counts["held"] += len(published.held)
    return found, published

while not ending:
    progress, now = f"{time.time_ns()}", stamp(datetime.now(UTC))
    changed = {}
    def propose(tip):
        changed.clear()
        for path in chance.sample(files, 6):
            try:
                changed[path] = document.edit(tip.read(path), {"progress": progress, "updated": now})
            except Malformed:  # a half-written file was taken; the other half will follow
                continue
        return Draft(Message("workspace: it goes on"), changed, agent)
    if writer.record(propose):
        log.write("".join(f"{path} {progress}\n" for path in changed))
        log.flush()
    publisher.publish()
    turn(files)
for _ in range(400):
    time.sleep(0.02)
    found, published = turn(None)
    stand = {refs.read(name) for name in (MAIN, "refs/ravi/published", "refs/heads/main")}
    if not found and not published.held and len(stand) == 1:
        break
else:
    print("did not settle:", found, published, file=sys.stderr)
    sys.exit(3)
import json
print(json.dumps(counts), flush=True)
"""


def git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, env=os.environ | PLAIN, check=False)
    assert done.returncode == 0, (args, done.stderr.decode())
    return done.stdout.decode("utf-8", "replace")


def workspace(root: Path) -> Path:
    git(Path("/"), "init", "-q", "-b", "main", str(root))
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    for path in FILES:
        (root / path).parent.mkdir(parents=True)
        id = path.split("/")[1]
        text = f"---\nid: {id}\nstatus: open\nprogress: 0\nupdated: {STAMP}\n---\n\n" + "Some words.\n" * 40 + "END\n"
        (root / path).write_text(text)
    (root / "notes.txt").write_text("Notes\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    return root


def python(code: str, *args: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | PLAIN)


def race(tmp_path: Path, tell: Callable[..., None], saves: int, seed: int, *, kills: bool) -> dict[str, int]:
    """Editors, a reader and ravi at once; answers the figures after checking that nothing was lost."""
    root = workspace(tmp_path / "w")
    chance = random.Random(seed)
    started = time.monotonic()
    ravi = python(RAVI, root, seed, tmp_path / "ravi", *FILES)
    reader = python(READER, root, *(path for path in FILES if path.split("/")[1].split("-")[0] in WHOLE))
    each = -(-saves // len(KINDS))
    editors = [python(EDITOR, kind, root, each, seed + n, tmp_path / f"said-{kind}") for n, kind in enumerate(KINDS)]
    killed = 0
    try:
        for editor in editors:
            while kills and editor.poll() is None:
                try:
                    editor.wait(timeout=0.2 + chance.random())
                except subprocess.TimeoutExpired:
                    ravi.kill()
                    ravi.communicate()
                    killed += 1
                    ravi = python(RAVI, root, seed + killed, tmp_path / "ravi", *FILES)
            _, complaint = editor.communicate()
            assert editor.returncode == 0, complaint
        assert ravi.stdout is not None
        assert ravi.stdout.readline() == "at work\n"
        ravi.send_signal(signal.SIGTERM)
        said, complaint = ravi.communicate()
        assert ravi.returncode == 0, complaint
    except BaseException:
        for process in (ravi, reader, *editors):
            process.kill()
            process.communicate()
        raise
    reader.send_signal(signal.SIGTERM)
    reads, torn = map(int, reader.communicate()[0].split()[1:])
    seconds = time.monotonic() - started

    final = {path: (root / path).read_text() for path in FILES}
    history = git(root, "log", "--all", "-p", "-m", "--format=%H")
    tokens = [line for kind in KINDS for line in (tmp_path / f"said-{kind}").read_text().split()]
    assert len(tokens) == each * len(KINDS)
    everything = history + "".join(final.values())
    in_files = sum(any(f"- {token}\n" in text for text in final.values()) for token in tokens)
    lost = [token for token in tokens if f"- {token}\n" not in everything]
    changes = [line.split() for line in (tmp_path / "ravi").read_text().splitlines()]
    last = dict(changes)
    undone = {path: progress for path, progress in last.items() if progress not in final[path]}
    told = {
        "saves": len(tokens), "in_the_files": in_files, "lost": len(lost), "reads": reads, "torn": torn,
        "kills": killed, "seconds": round(seconds), **json.loads(said), "changes": len(changes),
    }  # fmt: skip
    tell(**told)
    assert lost == []
    assert undone == {}
    assert torn == 0
    assert reads > 0
    assert git(root, "status", "--porcelain") == ""
    assert [str(path) for path in (root / "tasks").rglob(".ravi-*")] == []
    assert not (root / ".git/index.lock").exists()
    git(root, "fsck", "--strict")
    return told


def test_no_save_of_any_editor_is_lost(tmp_path, figures):
    told = race(tmp_path, figures, SAVES, seed=1, kills=False)
    assert told["written"]
    assert told["held"]  # or there was no race


def test_no_save_is_lost_when_ravi_is_killed_again_and_again(tmp_path, figures):
    assert race(tmp_path, figures, SAVES // 2, seed=2, kills=True)["kills"]


def test_commits_and_ravi_do_not_undo_each_other(tmp_path, figures):
    """A person commits and amends, as fast as git lets them, what has nothing to do with ravi."""
    root = workspace(tmp_path / "w")
    commits = SAVES // 6
    ravi = python(RAVI, root, 3, tmp_path / "ravi", *FILES)
    person = python(COMMITTER, root, commits, 3, tmp_path / "said")
    try:
        assert ravi.stdout is not None
        assert ravi.stdout.readline() == "at work\n"
        refused, complaint = person.communicate()
        assert person.returncode == 0, complaint
        ravi.send_signal(signal.SIGTERM)
        told, complaint = ravi.communicate()
        assert ravi.returncode == 0, complaint
    except BaseException:
        for process in (ravi, person):
            process.kill()
            process.communicate()
        raise
    tokens = (tmp_path / "said").read_text().split()
    assert len(tokens) == commits
    notes = (root / "notes.txt").read_text()
    changes = [line.split() for line in (tmp_path / "ravi").read_text().splitlines()]
    lost = [token for token in tokens if notes.count(f"- {token}\n") != 1]
    undone = {path: progress for path, progress in dict(changes).items() if progress not in (root / path).read_text()}
    told = {"lost": len(lost), "undone": len(undone), "refused_by_git": int(refused), **json.loads(told)}
    figures(persons_commits=commits, changes=len(changes), **told)
    assert lost == []
    assert undone == {}
    assert git(root, "status", "--porcelain") == ""
    git(root, "fsck", "--strict")
