"""Agents that misbehave, and files that make no sense: each is answered in words, and everybody else's work goes on."""

import os
import re
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import FULL, Daemon, Promises, check, eventually, git, orphans, tree

pytestmark = pytest.mark.fault

MB = 1_000_000


class Agent(NamedTuple):
    """A hostile agent: what it does, how its task must end, and the words that a person must find."""

    script: str
    end: str = "done"
    words: str = ""  # in `ravi runs show`
    task: str = ""
    command: str = "[./agent.sh]"
    mode: int = 0o755


AGENTS = {
    "prints 300 MB in one line": Agent(
        f"head -c {300 * MB} /dev/zero | tr '\\0' x; mkdir -p outputs; echo made > outputs/out.txt"
    ),
    "ignores SIGTERM": Agent(
        "trap '' TERM; while :; do sleep 1; done", "failed", "timed out after 300ms", task="timeout: 300ms\n"
    ),
    "leaves a child in a session of its own": Agent(
        "setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 0.1; done' > /dev/null 2>&1 &\necho done"
    ),
    "leaves a daemon": Agent("(setsid nohup sh -c 'sleep 300 & sleep 300' > /dev/null 2>&1 &) &\nexit 0"),
    "writes all over its lane": Agent(
        'echo mine > "$RAVI_LANE/ravi.yaml"; echo mine > "$RAVI_LANE/agents/$RAVI_AGENT/AGENT.md"; echo x > notes.txt\n'
        'mkdir -p "$RAVI_LANE/tasks/other" && echo x > "$RAVI_LANE/tasks/other/TASK.md"',
        words="agents/ is changed by people only",
    ),
    "writes beside its lane": Agent('echo x > "$RAVI_LANE/../stray"; mkdir "$RAVI_LANE/../plain.1"; echo done'),
    "commits in its lane": Agent(
        "mkdir -p outputs; echo made > outputs/out.txt; git add -A; git commit -qm mine; git log --oneline | head -3\n"
        'git config core.hooksPath /tmp; git update-ref -d HEAD; rm -rf "$RAVI_LANE/.git/objects"'
    ),
    "commits without a .git in its lane": Agent(
        'rm -rf "$RAVI_LANE/.git"; git add -A; git commit -qm climbed; git reset -q --hard HEAD~1; echo done'
    ),
    "makes outputs a link to /": Agent(
        "rm -rf outputs; ln -s / outputs; echo done", words="a symbolic link; only plain files come back"
    ),
    "links from its outputs": Agent(
        "mkdir -p outputs; ln -s /etc/passwd outputs/out.txt; ln /etc/hostname outputs/hard 2>/dev/null; echo done",
        words="a symbolic link; only plain files come back",
    ),
    "writes its own TASK.md": Agent(
        "sed -i 's/^status:.*/status: cancelled/; s/^title:.*//' TASK.md; echo sabotage >> TASK.md; echo done",
        words="changed by asking `ravi`",
    ),
    "writes its own RUN.md": Agent(
        'mkdir -p runs/1 runs/9; printf -- "---\\nid: hostile.9\\ntask: hostile\\nagent: hostile\\nattempt: 1\\n'
        'status: succeeded\\n---\\n" | tee runs/1/RUN.md > runs/9/RUN.md; echo done',
        words="changed by asking `ravi`",
    ),
    "makes a pipe": Agent(
        "mkdir -p outputs; mkfifo outputs/pipe; echo done", words="a pipe; only plain files come back"
    ),
    "deletes its lane": Agent('cd /; rm -rf "$RAVI_LANE"; echo done', "failed", "its lane was deleted while it worked"),
    "deletes its task": Agent('rm -rf "$RAVI_TASK_DIR"/*; echo done', words="it was deleted, and stays"),
    "writes a huge file": Agent(
        f"mkdir -p outputs; truncate -s {60 * MB} outputs/huge; echo made > outputs/out.txt", words="may have 50 MB"
    ),
    "writes names from hell": Agent(
        "mkdir -p outputs/.git; cd outputs; echo x > .git/config; echo x > \"$(printf 'a\\377b')\"\n"
        "echo x > \"$(printf 'a\\nb')\"; echo x > ' '; echo x > -n; echo made > out.txt",
        words="not UTF-8",
    ),
    "digs a deep hole": Agent(
        "mkdir -p outputs; cd outputs; i=0; while [ $i -lt 100 ]; do mkdir d; cd d; i=$((i+1)); done; echo x > x",
        words="nested too deep",
    ),
    "is not there": Agent("", "failed", "no program `no-such-program`", command="[no-such-program]"),
    "is not executable": Agent("echo never", "failed", "is not executable", mode=0o644),
    "is not a program": Agent("", "failed", "agent", command="[./AGENT.md]"),
    "kills its keeper": Agent("kill -9 $PPID; sleep 60", "failed", "keeper of the run was killed"),
    "kills itself": Agent("kill -9 $$", "failed", "killed by SIGKILL"),
    "closes everything": Agent("exec 0<&- 1>&- 2>&-; exit 3", "failed", "exited with 3"),
    "never ends its words": Agent("printf '\\033]0;owned\\007\\377\\376 \\000 no end'"),
    "asks for what is not its": Agent(
        "ravi tasks cancel plain; ravi agents new evil -- sh; ravi tasks edit $RAVI_TASK --status cancelled; echo done"
    ),
    "forgets whose it is": Agent(
        'unset RAVI_RUN RAVI_CONTEXT; RAVI_RUN=plain.1 ravi tasks done plain; echo "still here"',
    ),
}


@pytest.mark.parametrize(
    "names", [pytest.param([n], id=n) for n in AGENTS] if FULL else [pytest.param(list(AGENTS), id="all at once")]
)
def test_hostile_agents_are_told_of_and_the_daemon_goes_on(names: list[str], workspace, figures):
    promises = Promises()
    workspace.agent("worker", "mkdir -p outputs; echo made > outputs/out.txt; echo fine\n")
    tasks = {f"hostile-{number}": AGENTS[name] for number, name in enumerate(names)}
    for task, hostile in tasks.items():
        workspace.agent(task, hostile.script + "\n")
        if hostile.command != "[./agent.sh]":
            workspace.write(f"agents/{task}/AGENT.md", f"---\nrunner: command\ncommand: {hostile.command}\n---\nYou.\n")
        (workspace.root / f"agents/{task}/agent.sh").chmod(hostile.mode)
        workspace.task(task, task, f"attempts: 1\n{hostile.task}")
        promises.task(task, hostile.end)
    after = "".join(f"  - {task}\n" for task in tasks)
    workspace.task("plain", "worker", f"depends_on:\n{after}on_upstream_failure: run\n")
    promises.task("plain", makes="out.txt")
    workspace.up(code=1 if any(hostile.end == "failed" for hostile in tasks.values()) else 0)
    assert orphans(workspace) == [], "nothing outlives its run"
    check(workspace, promises)
    for task, hostile in tasks.items():
        run = workspace.run("runs", "show", f"{task}.1").out
        assert hostile.words in run, run
        assert "\033" not in run, "a terminal is not obeyed"
        assert "sabotage" not in workspace.read(f"tasks/{task}/TASK.md")
        log = workspace.root / f".ravi/logs/runs/{task}.1.log"
        assert not log.exists() or log.stat().st_size < 9 * MB
    assert git(workspace, "log", "--format=%s", "HEAD", "--grep=climbed") == b""
    assert not [path for path in tree(workspace) if path.startswith("tasks/other") or "evil" in path]
    figures(agents=len(names), peak_memory_mb=memory() // 1000)


def memory() -> int:
    """The most memory, in KiB, that a process of ours ever had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


# -- files that make no sense


class Bad(NamedTuple):
    """A bad file: how it comes to be at a place below the workspace, and the words that tell of it."""

    path: str
    make: Callable[[Path], object] | bytes
    words: str
    is_committed: bool = True
    commands: tuple[str, ...] = ("status", "check")  # those that tell of it
    runs: bool = False


def _task(front: str, body: str = "text") -> bytes:
    return f"---\n{front}\n---\n# Bad\n\n{body}\n".encode()


def _link(place: Path) -> None:
    (place.parent.parent.parent.parent / "outside.md").write_bytes(_task("id: outside\nstatus: open\nassignee: worker"))
    place.symlink_to("../../../outside.md")


def _socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.getcwd()
        os.chdir(place.parent)  # the name of a socket may not be long
        try:
            made.bind(place.name)
        finally:
            os.chdir(here)


TASK = "tasks/bad/TASK.md"
OPEN = "status: open\nassignee: worker"
BOMB = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))])
FILES = {
    "front matter that is no YAML": Bad(TASK, _task(f"id: bad\n{OPEN}\ntitle: [unclosed"), "TASK.md"),
    "front matter without an end": Bad(TASK, f"---\nid: bad\n{OPEN}\n# no end\n".encode(), "TASK.md"),
    "an unknown status": Bad(TASK, _task("id: bad\nstatus: opne\nassignee: worker"), "opne"),
    "a status that is a number": Bad(TASK, _task("id: bad\nstatus: 7\nassignee: worker"), "status"),
    "a key that is twice there": Bad(TASK, _task(f"id: bad\n{OPEN}\nstatus: done"), "status"),
    "a circle": Bad(TASK, _task(f"id: bad\n{OPEN}\ndepends_on: [round]"), "circle"),
    "its own parent": Bad(TASK, _task(f"id: bad\n{OPEN}\nparent: bad"), "parent"),
    "its own dependency": Bad(TASK, _task(f"id: bad\n{OPEN}\ndepends_on: [bad]"), "depends_on"),
    "an upstream that is missing": Bad(TASK, _task(f"id: bad\n{OPEN}\ndepends_on: [nowhere]"), "nowhere"),
    "a parent that is missing": Bad(
        TASK, _task(f"id: bad\n{OPEN}\nparent: nowhere"), "nowhere", commands=("check",), runs=True
    ),
    "an agent that is missing": Bad(
        TASK, _task("id: bad\nstatus: open\nassignee: nobody"), "nobody", commands=("check",)
    ),
    "an id that climbs": Bad(TASK, _task(f"id: ../../outside\n{OPEN}"), "id"),
    "an id of emoji": Bad(TASK, _task(f"id: 🦊🔥\n{OPEN}"), "id"),
    "an id that is a ref's lock": Bad(TASK, _task(f"id: bad.lock\n{OPEN}"), "id"),
    "an alias bomb": Bad(TASK, _task("id: bad\n" + BOMB), "TASK.md"),
    "a tag that builds objects": Bad(TASK, _task(f"id: bad\n{OPEN}\nx: !!python/object:os.system ls"), "TASK.md"),
    "50 KB of brackets": Bad(TASK, _task("id: bad\nx: " + "[" * 50_000), "TASK.md"),
    "a line of 10 MB": Bad(TASK, _task(f"id: bad\n{OPEN}", "x" * 10 * MB), "TASK.md", is_committed=False),
    "NUL": Bad(TASK, _task(f"id: bad\n{OPEN}\ntitle: a\0b", "x\0y"), "TASK.md"),
    "latin-1": Bad(TASK, _task(f"id: bad\n{OPEN}\ntitle: caf\xe9").decode().encode("latin-1"), "TASK.md"),
    "conflict markers": Bad(
        TASK, b"---\nid: bad\n<<<<<<< HEAD\nstatus: open\n=======\nstatus: done\n>>>>>>> x\n---\n", "TASK.md"
    ),
    "a link out of the workspace": Bad(TASK, _link, "link", is_committed=False),
    "a link to nowhere": Bad(TASK, lambda place: place.symlink_to("nowhere"), "link", is_committed=False),
    "a pipe": Bad(TASK, os.mkfifo, "TASK.md", is_committed=False, commands=("check",)),
    "a socket": Bad(TASK, _socket, "TASK.md", is_committed=False, commands=("check",)),
    "a folder": Bad(TASK, os.mkdir, "TASK.md", is_committed=False, commands=("check",)),
    "an unknown runner": Bad("agents/bad/AGENT.md", b"---\nrunner: nonsense\n---\n", "nonsense"),
    "an agent without a command": Bad("agents/bad/AGENT.md", b"---\nrunner: command\n---\n", "command"),
    "an agent of brackets": Bad("agents/bad/AGENT.md", b"---\n" + b"{" * 50_000 + b"\n---\n", "AGENT.md"),
}


@pytest.mark.parametrize(
    "names", [pytest.param([n], id=n) for n in FILES] if FULL else [pytest.param(list(FILES), id="all at once")]
)
def test_files_that_make_no_sense_are_told_of_and_other_tasks_run(names: list[str], workspace, figures):
    promises = Promises()
    workspace.agent("worker", "mkdir -p outputs; echo made > outputs/out.txt; echo fine\n")
    workspace.up()
    made: dict[str, Bad] = {}
    for number, name in enumerate(names):
        bad = FILES[name]
        path = bad.path.replace("/bad/", f"/bad-{number}/")
        made[path] = bad
        place = workspace.root / path
        place.parent.mkdir(parents=True)
        if callable(bad.make):
            bad.make(place)
        else:
            place.write_bytes(_named(bad.make, number))
        if name == "a circle":
            workspace.task("round", "worker", f"depends_on: [bad-{number}]\n")
    workspace.task("plain", "worker")
    promises.task("plain", makes="out.txt")
    workspace.up()
    for command in ("status", "check"):
        told = promises.call(workspace, command).out.splitlines()
        for path, bad in made.items():
            said = [line for line in told if f"{path}:" in line]
            assert command not in bad.commands or any(bad.words in line for line in said), (command, path, told)
    lines = git(workspace, "status", "--porcelain", "--untracked-files=all").decode().splitlines()
    left = [line[3:] for line in lines]
    assert not [path for path in left if made[path].is_committed], left
    check(workspace, promises, may_have=tuple(left))
    for number, (path, bad) in enumerate(made.items()):
        folder = (workspace.root / path).parent
        assert (folder / "runs").exists() == bad.runs, path
        if not callable(bad.make) and not bad.runs:
            lines = (workspace.root / path).read_bytes().split(b"\n")
            assert not set(_named(bad.make, number).split(b"\n")) - set(lines), "every line is as it was written"
    assert not (workspace.root / "outside").exists()
    figures(files=len(names))


def _named(data: bytes, number: int) -> bytes:
    """The file with an id of its own."""
    return re.sub(rb"\bbad\b(?!\.lock)", f"bad-{number}".encode(), data)


def test_an_id_that_is_taken_stays_with_its_owner(workspace):
    promises = Promises()
    workspace.agent("worker", "mkdir -p outputs; echo made > outputs/out.txt\n")
    workspace.task("mine", "worker")
    promises.task("mine", makes="out.txt")
    workspace.up()
    workspace.write("tasks/copy/TASK.md", workspace.read("tasks/mine/TASK.md"))
    workspace.task("plain", "worker")
    promises.task("plain", makes="out.txt")
    workspace.up()
    check(workspace, promises)
    rows = {row["path"]: row for row in workspace.json("tasks", "list", "--all")}
    assert rows["tasks/mine/TASK.md"]["id"] == "mine"
    assert rows["tasks/copy/TASK.md"]["id"] != "mine"
    assert rows["tasks/copy/TASK.md"]["status"] == "draft"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_no_agent_lives_on_when_its_daemon_is_killed(workspace, tmp_path, figures):
    """Not one that left its group and session, ignores every signal it can, and closed what it was given."""
    begun = tmp_path / "begun"
    workspace.agent(
        "hostile",
        "trap '' TERM HUP INT\n"
        "setsid sh -c 'exec 0<&- 1>&- 2>&-; trap \"\" TERM HUP; while :; do sleep 0.1; done' &\n"
        "(setsid sh -c 'trap \"\" TERM HUP; while :; do sleep 0.1; done' &)\n"
        'touch "$BEGUN"; while :; do sleep 0.1; done\n',
        f"env:\n  BEGUN: {begun}\n",
    )
    workspace.task("hostile", "hostile")
    with Daemon(workspace) as daemon:
        daemon.until(begun.exists)
        assert len(orphans(workspace)) >= 3
        killed = daemon.elapsed()
        daemon.kill()
        eventually(lambda: not orphans(workspace), 5)
        figures(gone_after=f"{daemon.elapsed() - killed:.3f} s")
