"""The index, measured: made from nothing, opened, moved by one commit, listed and searched, at 1k, 10k and 100k tasks.

python -m tests.bench.bench_index [1000 10000 100000]
"""

import gc
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ravi.core.ids import new_id
from ravi.store.index import Index
from ravi.store.objects import Objects, Signature

ME = Signature("me", "me@example.org", 1_700_000_000)
_letters = random.Random(7)
WORDS = ["".join(_letters.choices("abcdeilmnoprstu", k=_letters.randint(3, 9))) for _ in range(3000)]


def populate(root: str, count: int, open_share: float, seed: int = 1) -> tuple[str, list[str]]:
    """A workspace of `count` tasks, a third of them with a run, in one commit: that commit, and the paths of tasks."""
    subprocess.run(["git", "init", "-q", root], check=True)
    chance = random.Random(seed)
    objects = Objects(f"{root}/.git")
    changes: dict[str, bytes] = {
        f"agents/{name}/AGENT.md": b"---\nrunner: command\ncommand: [echo, hi]\n---\nYou work.\n"
        for name in ("alice", "bob", "carol")
    }
    paths = []
    ids: list[str] = []
    for n in range(count):
        title = " ".join(chance.choices(WORDS, k=5)).capitalize()
        id = new_id(title, chance.randbytes(4))
        is_open = chance.random() < open_share
        keys = [
            f"id: {id}",
            f"title: {title}",
            f"status: {'open' if is_open else chance.choice(['done', 'done', 'done', 'failed', 'cancelled'])}",
            f"assignee: {chance.choice(['alice', 'bob', 'carol', 'dora'])}",
            f"priority: {chance.randrange(5)}",
            f"labels: [{chance.choice(WORDS)}, {chance.choice(WORDS)}]",
        ]
        if ids and n % 5 == 0:
            keys.append(f"parent: {chance.choice(ids[-200:])}")
        if ids and n % 7 == 0:
            keys.append(f"depends_on: [{chance.choice(ids[-200:])}]")
        moment = f"2026-{n * 12 // count + 1:02}-{n * 336 // count % 28 + 1:02}T10:22:{n % 60:02}.123Z"
        keys += [f"created: {moment}", f"updated: {moment}", "created_by: alice"]
        body = "\n".join(" ".join(chance.choices(WORDS, k=12)) for _ in range(8))
        folder = f"tasks/{moment[:4]}/{moment[5:7]}/{moment[8:10]}/{id}"
        changes[f"{folder}/TASK.md"] = "\n".join(["---", *keys, "---", "", f"# {title}", "", body, ""]).encode()
        if n % 3 == 0:
            run = [
                f"id: {id}.1",
                f"task: {id}",
                "agent: alice",
                "attempt: 1",
                "status: succeeded",
                f"started: {moment}",
            ]
            run += [f"ended: {moment}", "exit: 0", "summary: it is done"]
            changes[f"{folder}/runs/1/RUN.md"] = "\n".join(["---", *run, "---", "", body[:200], ""]).encode()
        ids.append(id)
        paths.append(f"{folder}/TASK.md")
    commit = objects.put_commit(objects.apply(None, changes), [], ME, ME, "all of it\n")
    objects.flush()
    objects.close()
    return commit, paths


def median(do: Callable[[], object], times: int = 11) -> float:
    """Milliseconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        do()
        taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)


def measure(count: int, open_share: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, __file__, "--populate", root, str(count), str(open_share)]
        commit, *paths = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        objects = Objects(f"{root}/.git")
        path = os.path.join(root, ".ravi", "index.sqlite")
        gc.collect()
        figures: dict[str, float] = {}
        index = Index(path, lambda: objects)
        before, start = os.times(), time.perf_counter()
        index.catch_up(commit)
        figures["from nothing, s"] = time.perf_counter() - start
        index.close()
        times = os.times()
        figures["from nothing, s of CPU"] = times.user + times.system - before.user - before.system
        figures["from nothing, peak RSS in MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures["size, MB"] = sum(os.path.getsize(Path(root, ".ravi", f)) for f in os.listdir(f"{root}/.ravi")) / 1e6

        def opened() -> None:
            with Index(path, lambda: objects) as fresh:
                fresh.catch_up(commit)

        figures["open, nothing to do"] = median(opened)
        index = Index(path, lambda: objects)
        tip = commit
        moves = []
        for n in range(30):
            text = objects.read(objects.commit(tip).tree, paths[n * len(paths) // 30]) or b""
            changed = objects.apply(objects.commit(tip).tree, {paths[n * len(paths) // 30]: text + b"one more line\n"})
            tip = objects.put_commit(changed, [tip], ME, ME, f"one\n\nRavi-Event: e{n}\n")
            objects.flush()
            start = time.perf_counter()
            index.catch_up(tip)
            moves.append((time.perf_counter() - start) * 1000)
        figures["one commit"] = statistics.median(moves)
        figures["one commit, worst of 30"] = max(moves)
        figures["view"] = median(lambda: index.view().close())
        with index.view() as view:
            fields = ("id", "title", "status", "assignee", "priority")
            figures["listed"] = len(view.list_tasks(fields=fields))
            figures["list, columns"] = median(lambda: view.list_tasks(fields=fields))
            figures["list, 50 rows"] = median(lambda: view.list_tasks(fields=fields, limit=50))
            figures["list, objects"] = median(view.list_tasks)
            figures["list, JSON text"] = median(view.tasks_json)
            figures["list, of bob"] = median(lambda: view.list_tasks(fields=fields, assignee="bob"))
            figures["list, a label"] = median(lambda: view.list_tasks(fields=fields, label="crash"))
            words = WORDS[100] + " " + WORDS[101][:4]
            figures["found"] = len(view.list_tasks(fields=fields, all=True, text=words))
            figures["search"] = median(lambda: view.list_tasks(fields=fields, all=True, text=words))
            id = view.list_tasks(limit=1)[0]["id"]
            figures["show"] = median(lambda: (view.task(id), view.runs(id), view.comments(id), view.children(id)))
            figures["resolve"] = median(lambda: view.resolve(id[:-2]))
        index.close()
        objects.close()
        with open("/proc/self/statm") as file:
            figures["RSS at the end, MB"] = int(file.read().split()[1]) * resource.getpagesize() / 1e6
        return figures


def report(counts: list[int], open_share: float = 0.1) -> dict[int, dict[str, float]]:
    """Measure each size in a process of its own, so that memory is its own too, and print a table (ms unless said)."""
    found = {}
    for count in counts:
        command = [sys.executable, __file__, "--one", str(count), str(open_share)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[count] = {k: float(v) for k, v in (line.rsplit(" ", 1) for line in done.stdout.splitlines())}
    print(f"\n{'ms, ' + str(open_share) + ' open':30}" + "".join(f"{count:>12,}" for count in counts))
    for name in found[counts[0]]:
        print(f"{name:30}" + "".join(f"{found[count][name]:12.2f}" for count in counts))
    return found


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--populate"]:
        made, its_paths = populate(words[1], int(words[2]), float(words[3]))
        print(made, *its_paths, sep="\n")
    elif words[:1] == ["--one"]:
        for name, value in measure(int(words[1]), float(words[2])).items():
            print(name, value)
    else:
        counts = [int(word) for word in words if "." not in word]
        report(counts or [1_000, 10_000, 100_000], *[float(word) for word in words if "." in word])
