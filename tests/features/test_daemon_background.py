"""`ravi daemon`: started, asked, ended and started again, as processes of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

LINUX = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
DONE_AT_THE_SECOND = 'case $RAVI_RUN in *.1) exec sleep 60;; esac; echo made > "$RAVI_TASK_DIR/outputs/a"\n'


@pytest.fixture
def environ(environ, tmp_path):
    """A person whose sockets lie in a folder of their own."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    return {**environ, "XDG_RUNTIME_DIR": str(runtime)}


@pytest.fixture
def background(workspace):
    """A workspace whose daemon is ended afterwards, however it is."""
    yield workspace
    (workspace.root / "ravi.yaml").write_text("quiet: 50ms\n")
    workspace.run("daemon", "stop", "--timeout", "20s", "--force")


def fault(done) -> dict[str, str]:
    """What a command that failed told on stderr."""
    return json.loads(done.err)


def customized(tmp_path: Path, environ: dict[str, str], when: str, text: str) -> dict[str, str]:
    """An environment in which Python does `text` first in the processes that have `when` on their command line."""
    folder = tmp_path / "custom"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"import sys\nif {when!r} in sys.orig_argv:\n    {text}\n")
    return {"PYTHONPATH": f"{folder}:{environ['PYTHONPATH']}"}


def is_alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc/self/stat").exists():
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_when_start_comes_back_it_leads_and_answers(background):
    started = background.json("daemon", "start")
    told = background.json("daemon", "status")
    assert started == told
    assert (told["running"], told["answers"], told["kind"]) == (True, True, "background")
    assert told["host"] == os.uname().nodename
    assert told["version"] == told["here"]
    assert told["nats"] == {"url": None, "pid": None, "connected": False, "managed": False, "said": "off"}
    assert (told["omni"], told["runs"], told["queue"]) == (None, [], {"ready": 0, "waiting": 0})
    assert told["workspace"] == str(background.root)
    assert background.json("status")["daemon"]["pid"] == told["pid"]
    assert f"running, pid {told['pid']}" in background.run("daemon").out


@LINUX
def test_it_has_a_session_of_its_own_and_nothing_of_the_terminal(background):
    pid = background.json("daemon", "start")["pid"]
    assert os.getsid(pid) == pid
    streams = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    log = str(background.root / ".ravi/logs/daemon.log")
    assert streams == ["/dev/null", log, log]


def test_it_works_and_says_what_it_does(background, until):
    background.agent("writer", "echo hi > outputs/a; echo fine\n")
    background.run("daemon", "start")
    background.task("greet", "writer")
    until((background.root / "tasks/greet/outputs/a").exists)
    until(lambda: "run greet.1: succeeded" in background.run("daemon", "logs").out)


def test_live_runs_and_what_waits_are_in_the_status(background, until):
    background.agent("slow", 'ravi tasks progress "$RAVI_TASK" half; exec sleep 60\n')
    background.run("daemon", "start")
    background.task("one", "slow")
    background.task("two", "slow")
    until(lambda: background.json("daemon", "status")["queue"]["ready"] == 1)
    (run,) = until(lambda: [r for r in background.json("daemon", "status")["runs"] if r["progress"] == "half"])
    assert (run["agent"], is_alive(run["pid"])) == ("slow", True)
    assert background.json("daemon", "status")["agents"] == ["slow"]
    assert background.json("status")["daemon"]["queue"]["ready"] == 1
    assert f"run     {run['id']}  slow  half" in background.run("daemon").out


def test_a_second_start_names_who_is_there(background):
    first = background.json("daemon", "start")
    told = fault(background.run("daemon", "start", "--json", code=5))
    assert told["code"] == "refused"
    assert told["error"].endswith(f"led by process {first['pid']} on {first['host']} since {first['since']}")


def test_of_two_starts_at_once_one_leads_and_the_other_says_who(background):
    both = [background.start("daemon", "start") for _ in range(2)]
    said = {process.wait(60): process.communicate()[0] for process in both}
    assert sorted(said) == [0, 5]
    assert f"process {background.json('daemon', 'status')['pid']} " in said[5]


def test_start_says_that_it_runs_in_a_terminal_already_and_stop_ends_it_there(background):
    up = background.start("up")
    assert "watching" in up.stdout.readline()
    told = background.json("daemon", "status")
    assert (told["pid"], told["kind"]) == (up.pid, "foreground")
    assert f"process {up.pid} " in background.run("daemon", "start", code=5).err
    assert "`ravi up` runs in a terminal" in background.run("daemon", "restart", code=5).err
    assert background.json("daemon", "stop")["pid"] == up.pid
    assert up.wait(20) == 0
    up.communicate()


def test_stop_where_nothing_runs_is_no_fault(workspace):
    assert workspace.run("daemon", "stop").out == "no daemon runs\n"
    assert workspace.json("daemon", "stop")["stopped"] is False


def test_stop_ends_what_runs_records_it_and_writes_it_out(background, until):
    background.agent("slow", DONE_AT_THE_SECOND)
    pid = background.json("daemon", "start")["pid"]
    background.task("long", "slow")
    child = until(lambda: [run["pid"] for run in background.json("daemon", "status")["runs"] if run["pid"]])[0]
    told = background.json("daemon", "stop")
    assert (told["stopped"], told["pid"], told["forced"], told["interrupted"]) == (True, pid, False, ["long.1"])
    assert not is_alive(child)
    assert [run["status"] for run in background.json("runs")] == ["interrupted"]
    assert background.json("daemon", "status")["running"] is False
    told = background.json("status")
    assert told["recorded"] == told["published"]
    assert background.is_clean()


def test_restart_carries_on(background, until):
    background.agent("slow", DONE_AT_THE_SECOND)
    first = background.json("daemon", "start")["pid"]
    background.task("long", "slow")
    until(lambda: [run["pid"] for run in background.json("daemon", "status")["runs"] if run["pid"]])
    assert background.json("daemon", "restart")["pid"] != first
    until(lambda: background.json("tasks", "show", "long")["status"] == "done")
    assert [run["status"] for run in background.json("runs")] == ["succeeded", "interrupted"]


def test_restart_where_nothing_runs_starts(background):
    assert background.json("daemon", "restart")["running"] is True


def test_a_signal_ends_it_as_stop_does(background, until):
    background.agent("slow", "exec sleep 60\n")
    pid = background.json("daemon", "start")["pid"]
    background.task("long", "slow")
    until(lambda: [run["pid"] for run in background.json("daemon", "status")["runs"] if run["pid"]])
    os.kill(pid, signal.SIGTERM)
    until(lambda: background.json("daemon", "status")["running"] is False)
    assert [run["status"] for run in background.json("runs")] == ["interrupted"]


def test_what_does_not_end_in_time_is_named_and_killed_only_by_force(background, until):
    background.agent("deaf", "trap '' TERM; touch deaf; while :; do sleep 1; done\n", "grace: 60s\n")
    pid = background.json("daemon", "start")["pid"]
    background.task("long", "deaf")
    (child,) = until(lambda: [r["pid"] for r in background.json("daemon", "status")["runs"] if r["pid"]])
    until(lambda: list((background.root / ".ravi/lanes").glob("**/deaf")))
    told = fault(background.run("daemon", "stop", "--timeout", "200ms", "--json", code=3))
    assert told["error"] == f"still alive after 0.2s: process {pid}; run long.1 (process {child})"
    assert "--force" in told["hint"]
    assert "ravi daemon stop" in background.json("daemon", "status")["stopping"]
    assert "ending: ravi daemon stop" in background.run("status").out
    told = background.json("daemon", "stop", "--timeout", "200ms", "--force")
    assert (told["forced"], told["pid"], told["said"]) == (True, pid, f"process {pid} was killed")
    until(lambda: not is_alive(pid) and not is_alive(child))
    assert background.json("daemon", "status")["running"] is False


def test_a_stopped_process_runs_and_does_not_answer(background, until):
    pid = background.json("daemon", "start")["pid"]
    os.kill(pid, signal.SIGSTOP)
    told = background.json("status")["daemon"]
    assert (told["running"], told["answers"], told["pid"]) == (True, False, pid)
    told = background.json("daemon", "status")
    assert (told["answers"], "does not answer" in told["fault"]) == (False, True)
    said = background.run("daemon", "stop", "--timeout", "200ms", code=3).err
    assert f"still alive after 0.2s: process {pid}" in said
    assert background.json("daemon", "stop", "--timeout", "200ms", "--force")["forced"] is True
    until(lambda: not is_alive(pid))


def test_a_killed_one_is_gone_at_once_and_the_next_one_starts(background):
    pid = background.json("daemon", "start")["pid"]
    os.kill(pid, signal.SIGKILL)
    told = background.json("daemon", "status")
    assert (told["running"], told["pid"]) == (False, None)
    assert (background.root / ".git/ravi/control").exists()  # it left things behind
    assert background.json("status")["daemon"]["running"] is False
    assert background.json("daemon", "start")["pid"] != pid


def test_what_a_dead_one_left_is_never_believed(workspace, tmp_path):
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (workspace.root / ".git/ravi/leader").write_text(f"{bystander.pid}\n{os.uname().nodename}\n2026-01-01\n")
        (workspace.root / ".git/ravi/leader.lock").touch()
        with socket.socket(socket.AF_UNIX) as liar:
            place = os.path.join(workspace.environ["XDG_RUNTIME_DIR"], "liar")
            liar.bind(place)
            liar.listen()
            (workspace.root / ".git/ravi/control").write_text(place)
            assert workspace.json("status")["daemon"]["running"] is False
            assert workspace.json("daemon", "status")["running"] is False
            assert workspace.json("daemon", "stop", "--force", "--timeout", "0s")["stopped"] is False
        assert bystander.poll() is None
        assert workspace.json("daemon", "start")["pid"] != bystander.pid
    finally:
        bystander.kill()
        bystander.wait()
        workspace.run("daemon", "stop")


@LINUX
def test_a_log_that_cannot_be_written_is_told_in_words(workspace):
    (workspace.root / ".ravi").mkdir(exist_ok=True)
    (workspace.root / ".ravi/logs").symlink_to("/sys/kernel")
    told = fault(workspace.run("daemon", "start", "--json", code=7))
    assert told["error"].startswith(f"{workspace.root}/.ravi/logs/daemon.log: the log cannot be written: ")
    assert workspace.json("daemon", "status")["running"] is False


def test_settings_with_a_mistake_are_told_with_their_place(background):
    background.write("ravi.yaml", "max_runs: many\n")
    told = fault(background.run("daemon", "start", "--json", code=1))
    assert (told["code"], told["error"]) == (
        "malformed",
        "ravi.yaml: max_runs: 'many' is not a whole number, 0 or above",
    )
    assert background.json("daemon", "status")["running"] is False


def test_settings_that_break_later_keep_nobody_from_asking_or_ending(background):
    pid = background.json("daemon", "start")["pid"]
    background.write("ravi.yaml", "max_runs: [\n")
    assert background.json("daemon", "status")["pid"] == pid
    assert background.json("daemon", "stop")["stopped"] is True


def test_one_that_dies_before_it_is_ready_is_told_by_the_end_of_its_log(background, tmp_path, environ):
    env = customized(tmp_path, environ, "run", "import os; os.write(2, b'no leg to stand on\\n'); os._exit(9)")
    said = background.run("daemon", "start", code=1, env=env).err
    assert "ended with 9 before it was ready" in said
    assert "\n  no leg to stand on\n" in said


def test_a_daemon_of_another_version_is_told_with_the_next_step(background, tmp_path, environ):
    env = customized(tmp_path, environ, "run", "import ravi; ravi.__version__ = '9.9.9'")
    background.run("daemon", "start", env=env)
    told = background.json("status")["daemon"]
    assert told["version"] == "9.9.9"
    words = f"version 9.9.9, and this is {told['here']}: `ravi daemon restart`"
    assert words in background.run("status").out
    assert words in background.run("daemon", "status").out
    assert background.json("daemon", "restart")["version"] == told["here"]
    assert "version" not in background.run("status").out


def test_nothing_that_lies_in_the_workspace_is_imported(background, tmp_path):
    background.write("json.py", "raise SystemExit('imported')\n")
    try:
        elsewhere = subprocess.run(
            [sys.executable, "-m", "ravi", "--workspace", str(background.root), "daemon", "start"],
            cwd=tmp_path, env=background.environ, capture_output=True, text=True,
        )  # fmt: skip
        assert (elsewhere.returncode, elsewhere.stderr) == (0, "")
    finally:
        (background.root / "json.py").unlink()


def test_a_run_may_not_end_the_daemon(background, until):
    background.agent("bold", "ravi daemon stop > outputs/said 2>&1; echo $? >> outputs/said\n")
    background.run("daemon", "start")
    background.task("try", "bold")
    said = until(lambda: (p := background.root / "tasks/try/outputs/said").exists() and p.read_text())
    assert said.endswith("\n6\n")
    assert "a run may not do `daemon stop`" in said


def test_an_unknown_verb_names_the_near_one(workspace):
    assert "did you mean `start`?" in workspace.run("daemon", "strat", code=2).err


@pytest.mark.parametrize("led", [False, True])
def test_the_status_loads_nothing_of_the_loop(background, environ, led):
    if led:
        background.run("daemon", "start")
    background.run("status")  # the index stands where the main line stands
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ravi", "status"],
        cwd=background.root, env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = {line.split("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    heavy = {"asyncio", "hashlib", "logging", "nats", "subprocess", "watchdog", "yaml", "ravi.store.writer"}
    heavy |= {"ravi.engine.loop", "ravi.engine.perform", "ravi.porcelain.daemon", "ravi.bus", "ravi.runners"}
    assert names & heavy == set()
    assert ("socket" in names) is led
