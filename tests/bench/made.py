"""Workspaces of any size, made fast and always the same, for the benchmarks."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ravi.core.ids import new_id
from ravi.core.times import stamp

PER_DAY = 300
TODAY = datetime(2026, 11, 19, 9, 0, tzinfo=UTC)
PEOPLE = ("", "", "ada", "grace", "linus")
LABELS = ("bug", "docs", "infra", "idea", "customer", "later")
WORDS = (  # noqa: SIM905 - forty quoted words would take a page
    "agent fails login after reset token parse index merge branch slow page retry queue invoice report sync mail "
    "calendar draft review deploy backup window colour font search upload image session cache lock timeout"
).split()
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


@dataclass(frozen=True)
class Made:
    """A workspace, and the paths of its TASK.md files, oldest first."""

    root: Path
    tasks: tuple[str, ...]


def make_workspace(path: str | os.PathLike[str], tasks: int) -> Made:
    """A repository with agents/, ravi.yaml and `tasks` tasks spread over days, PER_DAY each.

    Everything is committed on `main`, recorded and published (`refs/ravi/main`, `refs/ravi/published`), indexed and
    checked out. The same number always makes the same files.
    """
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "gc.auto", "0")
    paths: list[str] = []
    with subprocess.Popen(
        ["git", "fast-import", "--quiet"], cwd=root, stdin=subprocess.PIPE, env=os.environ | GIT
    ) as into:
        assert into.stdin is not None
        when = int(TODAY.timestamp())
        into.stdin.write(
            b"commit refs/heads/main\ncommitter Ada <ada@example.org> %d +0000\ndata 15\nworkspace: made\n" % when
        )
        for name, text in _documents(tasks):
            data = text.encode()
            into.stdin.write(b"M 100644 inline %b\ndata %d\n%b\n" % (name.encode(), len(data), data))
            if name.endswith("/TASK.md"):
                paths.append(name)
    assert into.returncode == 0
    git(root, "reset", "--quiet", "--hard")
    for ref in ("refs/ravi/main", "refs/ravi/published"):
        git(root, "update-ref", ref, "HEAD")
    git(root, "pack-refs", "--all")
    return Made(root, tuple(paths))


def git(root: Path, *args: str, check: bool = True) -> str:
    """What `git ARGS` prints, run as a person would but without their configuration."""
    done = subprocess.run(["git", *args], cwd=root, stdout=subprocess.PIPE, env=os.environ | GIT, check=check)
    return done.stdout.decode().strip()


def task_text(id: str, title: str, seed: int, created: datetime) -> str:
    """A TASK.md as people and ravi write them: a dozen lines of front matter, some 600 bytes of body."""
    dice = random.Random(seed)
    status = "open" if dice.random() < 0.3 else "done"
    assignee = dice.choice(PEOPLE)
    labels = ", ".join(sorted(dice.sample(LABELS, dice.randrange(3))))
    updated = created + timedelta(minutes=dice.randrange(1, 5000))
    lines = [
        f"id: {id}",
        f"title: {title}",
        f"status: {status}",
        *([f"assignee: {assignee}"] if assignee else []),
        f"priority: {dice.randrange(4)}",
        f"labels: [{labels}]",
        f"created: {stamp(created)}",
        f"updated: {stamp(updated)}",
        "created_by: ada",
    ]
    body, size = [], 0
    while size < 600:
        line = " ".join(dice.choices(WORDS, k=11)).capitalize() + "."
        body.append(line)
        size += len(line) + 1
    return "---\n" + "\n".join(lines) + f"\n---\n# {title}\n\n" + "\n".join(body) + "\n"


def _documents(tasks: int) -> Iterator[tuple[str, str]]:
    yield "ravi.yaml", "name: bench\nbranch: main\n"
    yield ".gitignore", "/.ravi/\n/open/\n"
    for name in ("coder", "writer", "tester"):
        front = "runner: command\ncommand: [cat]\n"
        yield (
            f"agents/{name}/AGENT.md",
            f"---\n{front}---\nYou are {name}. Do what the task says, and say what you did.\n",
        )
    days = (tasks + PER_DAY - 1) // PER_DAY
    for number in range(tasks):
        dice = random.Random(number)
        day = TODAY - timedelta(days=days - 1 - number // PER_DAY)
        created = day + timedelta(seconds=120 * (number % PER_DAY))
        title = " ".join(dice.choices(WORDS, k=4)).capitalize()
        id = new_id(title, dice.randbytes(4))
        yield f"tasks/{day:%Y/%m/%d}/{id}/TASK.md", task_text(id, title, number, created)


if __name__ == "__main__":
    print(make_workspace(sys.argv[1], int(sys.argv[2])).root)
