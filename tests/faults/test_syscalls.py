"""The n-th system call fails, or is the last one: whatever n is, the next undisturbed run puts everything right.

strace does it to ravi's own process, in all its threads; n is counted in each thread by itself, so one number is often
several moments. The programs that ravi starts are left alone in the small size and are hit too in the full one.
"""

import itertools
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import FULL, Editor, Promises, chance, check, copy, size

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

KINDS = {
    "write": ("write", "pwrite64"),
    "open": ("openat",),
    "rename": ("rename", "renameat", "renameat2", "link", "linkat"),
    "sync": ("fsync", "fdatasync", "syncfs"),
    "mkdir": ("mkdir", "mkdirat"),
    "unlink": ("unlink", "unlinkat", "rmdir"),
}
ERRORS = {"open": ("ENOSPC", "EIO", "EMFILE"), "mkdir": ("ENOSPC", "EIO"), "unlink": ("EIO",)}
ALONE = ["--detach-on=execve"]  # the programs that it starts are not traced
_MODULE = re.compile(r'"[^"]*(lib/python3|/site-packages|\.py|\.pyc|\.so|\.pth)["/]')
_CALL = re.compile(r"(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)")


class Point(NamedTuple):
    """The n-th call of a name, in whichever thread comes so far."""

    name: str
    number: int


@pytest.fixture
def prepared(workspace, tmp_path):
    """A workspace with work that nobody has looked at yet, and what must become of it."""
    promises = Promises()
    workspace.agent("worker", 'mkdir -p outputs; echo "by $RAVI_RUN" > outputs/out.txt; echo done\n')
    editor = Editor(workspace, promises, "editor")
    note = editor.new("note", "")
    workspace.up()
    editor.new("first", "worker", "report_to: [task:note]\nattempts: 9\nbackoff: 20ms\n")
    editor.new("second", "worker", "depends_on: [first]\nattempts: 9\nbackoff: 20ms\n")
    editor.add(note)
    promises.ends |= {"note": "open", "first": "done", "second": "done"}
    promises.makes |= {"first": "out.txt", "second": "out.txt"}
    return workspace, promises


UP = ("up", "--until-idle", "--timeout", "60s")


def traced(workspace, *options: str, scope: list[str], call: tuple[str, ...] = UP) -> subprocess.CompletedProcess[str]:
    """ravi under strace, from a folder that is not the workspace's: paths are told whole."""
    return subprocess.run(
        ["strace", "-f", "-qq", *scope, *options, sys.executable, "-m", "ravi", "-C", str(workspace.root), *call],
        check=False, cwd="/", env=workspace.environ, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def points(
    workspace, tmp_path: Path, kinds: tuple[str, ...], scope: list[str], call: tuple[str, ...] = UP
) -> list[Point]:
    """The calls of these kinds that touch the workspace, or what ravi says, in a run that nobody disturbs."""
    trial = copy(workspace, tmp_path / "trial")
    traces = tmp_path / "trace"
    names = ",".join(name for kind in kinds for name in KINDS[kind])
    done = traced(trial, "-y", f"--trace={names}", f"--output={traces}", scope=scope, call=call)
    assert done.returncode == 0, done.stderr
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    found = set()
    for line in traces.read_text(errors="replace").splitlines():
        if match := _CALL.match(line):
            counts[match["thread"]][match["name"]] += 1
            is_said = match["name"] == "write" and match["rest"].startswith(("1<", "2<"))
            if is_said or str(trial.root) in match["rest"]:
                found.add(Point(match["name"], counts[match["thread"]][match["name"]]))
    shutil.rmtree(trial.root)
    return sorted(found)


def spread(found: list[Point], count: int, about: str) -> list[Point]:
    """`count` of all points, one by chance of each stretch."""
    if count >= len(found):
        return found
    rng = chance("points", about)
    edges = [len(found) * n // count for n in range(count + 1)]
    return [found[rng.randrange(low, high)] for low, high in itertools.pairwise(edges)]


def is_python_hit(told: str) -> bool:
    """Whether what failed was Python loading a module, which it may do at any time: then its traceback is not ours."""
    return any("(INJECTED)" in line and _MODULE.search(line) for line in told.splitlines())


def hurt(
    prepared, tmp_path: Path, chosen: list[tuple[Point, str]], scope: list[str], call: tuple[str, ...] = UP
) -> dict[str, object]:
    """Do each of these harms to a copy of its own, let ravi go on undisturbed, and check. `{}` in a harm is the n."""
    workspace, promises = prepared
    hits = lost = half = 0
    codes: Counter[int] = Counter()
    for number, (point, harm) in enumerate(chosen):
        hurt = copy(workspace, tmp_path / f"hurt-{number}")
        told = tmp_path / "told"
        inject = f"{point.name}:{harm.format(point.number)}"
        done = traced(
            hurt, f"--trace={point.name}", f"--inject={inject}", f"--output={told}", scope=scope, call=call
        )  # fmt: skip
        what = f"{inject}: ended with {done.returncode}\n{done.stdout}{done.stderr}"
        trace = told.read_text(errors="replace")
        hits += "(INJECTED)" in trace or done.returncode == -9
        codes[done.returncode] += 1
        is_loading = "importlib._bootstrap" in done.stderr or is_python_hit(trace)
        assert "Traceback" not in done.stderr or is_loading, f"{what}\n{trace[-2000:]}"
        assert done.returncode in (0, 1, 3, 7, -9), what
        mine = Promises(ends=dict(promises.ends), makes=dict(promises.makes), saved=dict(promises.saved))
        try:
            found = check(hurt, mine)
        except AssertionError as fault:
            raise AssertionError(f"{what}\n{fault}") from None
        lost, half = lost + found.lost, half + found.half
        shutil.rmtree(hurt.root)
    ended = ", ".join(f"{count} with {code}" for code, count in sorted(codes.items()))
    return {"points": len(chosen), "hit": hits, "ended": ended, "lost": lost, "half": half}


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_fails_costs_nothing(kind, prepared, tmp_path, figures):
    found = points(prepared[0], tmp_path, (kind,), ALONE)
    errors = ERRORS.get(kind, ("ENOSPC", "EIO"))
    some = spread(found, size(6, 400), kind)
    chosen = [(point, f"error={errors[number % len(errors)]}:when={{}}") for number, point in enumerate(some)]
    if FULL and len(some) < 400:
        chosen = [(point, f"error={error}:when={{}}") for point in some for error in errors]
    figures(calls=len(found), **hurt(prepared, tmp_path, chosen, ALONE))


@pytest.mark.parametrize(("kind", "error"), [("write", "ENOSPC"), ("sync", "EIO")])
def test_a_disk_that_fails_from_some_call_on_costs_nothing(kind, error, prepared, tmp_path, figures):
    """Every call fails from the n-th on; ravi waits for better times until its own time is over."""
    found = points(prepared[0], tmp_path, (kind,), ALONE)
    chosen = [(point, f"error={error}:when={{}}+") for point in spread(found, size(3, 30), f"{kind} on")]
    figures(calls=len(found), **hurt(prepared, tmp_path, chosen, ALONE, (*UP[:-1], "2s")))


def test_a_kill_at_any_call_costs_nothing(prepared, tmp_path, figures):
    found = points(prepared[0], tmp_path, tuple(KINDS), ALONE)
    chosen = [(point, "signal=KILL:when={}") for point in spread(found, size(10, 400), "kill")]
    figures(calls=len(found), **hurt(prepared, tmp_path, chosen, ALONE))


@pytest.mark.parametrize("harm", ["error=EIO", "signal=KILL"])
def test_a_program_of_ours_that_fails_or_dies_costs_nothing(harm, prepared, tmp_path, figures):
    """git, the keeper and the agents are hit too. An agent that dies each time is given up in the end."""
    workspace, promises = prepared
    promises.ends |= {"first": "done|failed", "second": "done|blocked"}
    found = points(workspace, tmp_path, ("open",), [])
    chosen = [(point, f"{harm}:when={{}}") for point in spread(found, size(6, 150), f"programs {harm}")]
    figures(calls=len(found), **hurt(prepared, tmp_path, chosen, []))


def test_a_command_killed_at_any_call_was_done_or_was_not(prepared, tmp_path, figures):
    workspace, promises = prepared
    promises.task("typed", "done|missing", makes="out.txt")
    call = ("tasks", "new", "Typed", "--id", "typed", "-a", "worker")
    found = points(workspace, tmp_path, tuple(KINDS), ALONE, call)
    chosen = [(point, "signal=KILL:when={}") for point in spread(found, size(10, 300), "command")]
    figures(calls=len(found), **hurt(prepared, tmp_path, chosen, ALONE, call))
