"""Children of runs: how they start, are fed, heard, stopped, and what becomes of everything they started."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from watching import Make, Watched, is_gone

from ravi.runners import keeper, process
from ravi.runners.base import Order, Stop
from ravi.runners.process import Exit, Processes

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper and /proc")

# Leaves its group and session, loses its parent, and ignores the hangup; `read` waits until it lives.
ESCAPE = "mkfifo f; ( setsid nohup sh -c 'echo $$ >f; exec sleep 1000' >/dev/null 2>&1 & ); read escaped <f;"


def run(processes: Processes, order: Order) -> tuple[Exit, bytes]:
    said = bytearray()
    end = processes.run(order, said.extend, lambda pid, moment: None, lambda stop: None)
    return end, bytes(said)


def left_of(order: Order) -> int:
    return process.sweep(order.run, order.env["RAVI_WORKSPACE"])


def test_a_child_says_what_it_was_fed(processes: Processes, order: Make) -> None:
    assert run(processes, order("cat", prompt="grüße\n" * 100_000)) == (Exit(code=0), "grüße\n".encode() * 100_000)


def test_exit_code_and_last_words_on_stderr_are_told(processes: Processes, order: Make) -> None:
    end, said = run(processes, order("sh", "-c", "echo out; echo why >&2; exit 3"))
    assert (end.code, end.complaint, said) == (3, "why", b"out\n")


def test_a_child_that_never_reads_its_prompt_holds_nobody_up(processes: Processes, order: Make) -> None:
    assert run(processes, order("true", prompt="x" * 5_000_000))[0] == Exit(code=0)


def test_a_child_that_closes_stdin_and_goes_on_is_heard(processes: Processes, order: Make) -> None:
    end, said = run(processes, order("sh", "-c", "exec <&-; echo still here", prompt="x" * 5_000_000))
    assert (end, said) == (Exit(code=0), b"still here\n")


def test_stdin_is_at_its_end_when_there_is_no_prompt(processes: Processes, order: Make) -> None:
    assert run(processes, order("cat")) == (Exit(code=0), b"")


def test_a_signal_is_told(processes: Processes, order: Make) -> None:
    assert run(processes, order("sh", "-c", "kill -SEGV $$"))[0] == Exit(signal=signal.SIGSEGV)


def test_both_streams_go_to_the_log(processes: Processes, order: Make) -> None:
    asked = order("sh", "-c", "echo out; echo err >&2")
    run(processes, asked)
    assert sorted(asked.log.read_bytes().split()) == [b"err", b"out"]


def test_the_child_has_exactly_the_environment_it_is_given(processes: Processes, order: Make) -> None:
    end, said = run(processes, order("/usr/bin/env", env={"A": "1", "B": "x\ny"}))
    assert (end.code, said) == (0, b"A=1\nB=x\ny\n")


@linux
def test_no_parent_of_the_child_knows_the_daemons_environment(
    processes: Processes, order: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "secret")
    script = (
        "tr '\\0' '\\n' </proc/$PPID/environ; g=$(cut -d' ' -f4 /proc/$PPID/stat); tr '\\0' '\\n' </proc/$g/environ"
    )
    end, said = run(processes, order("sh", "-c", script))
    assert (end.code, said) == (0, b"")


def test_the_child_starts_with_no_descriptor_of_ours_and_default_signals(processes: Processes, order: Make) -> None:
    script = "ls /dev/fd/ | wc -l; grep -E 'SigBlk|SigIgn' /proc/self/status; ulimit -c"
    end, said = run(processes, order("sh", "-c", script))
    zeros = "0" * 16
    # ls has the directory open as its fourth
    assert said.decode().split() == ["4", "SigBlk:", zeros, "SigIgn:", zeros, "0"], end


def test_the_child_leads_a_group_of_its_own(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order("sh", "-c", "echo up; exec sleep 1000"))
    watched.hears(b"up")
    assert os.getpgid(watched.pid) == watched.pid
    assert os.getsid(watched.pid) != os.getsid(0)
    watched.stop("enough")
    assert watched.result().stopped == "enough"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("ravi-nonesuch",), "no program `ravi-nonesuch` on the agent's PATH"),
        (("/nonesuch/program",), "no program at `/nonesuch/program`"),
        (("{cwd}/plain",), "`{cwd}/plain` is not executable"),
        (("{cwd}/noline",), "`{cwd}/noline` is not a program: it has no `#!` line"),
        (("{cwd}/lost",), "`{cwd}/lost` cannot run: the interpreter named in its first line is missing"),
        (("{cwd}",), "`{cwd}` is not executable"),
        (("true", "x" * 200_000), "cannot start `/usr/bin/true`: Argument list too long"),
        (("true", "a\0b"), "cannot start `true`: embedded null byte"),
        (("",), "no program `` on the agent's PATH"),
        ((), "the agent has no command"),
    ],
)
def test_what_cannot_be_started_is_said_in_words(
    processes: Processes, order: Make, command: tuple[str, ...], words: str
) -> None:
    work = order().cwd
    (work / "plain").write_text("#!/bin/sh\n")
    for name, text in (("noline", "echo hello\n"), ("lost", "#!/nonesuch/interpreter\n")):
        (work / name).write_text(text)
        (work / name).chmod(0o755)
    asked = order(*(word.replace("{cwd}", str(work)) for word in command), env={"PATH": "/nonesuch:/usr/bin"})
    assert run(processes, asked)[0] == Exit(error=words.replace("{cwd}", str(work)))


def test_a_program_is_never_taken_from_the_current_directory_unasked(processes: Processes, order: Make) -> None:
    program = order().cwd / "surprise"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    end, _ = run(processes, order("surprise", env={"PATH": ":/usr/bin:"}))
    assert end.error == "no program `surprise` on the agent's PATH"


def test_a_missing_working_directory_is_said(processes: Processes, order: Make, tmp_path: Path) -> None:
    end, _ = run(processes, order("true", cwd=tmp_path / "nowhere"))
    assert end.error == f"cannot work in {tmp_path}/nowhere: No such file or directory"


def test_a_huge_environment_arrives_whole(processes: Processes, order: Make) -> None:
    env = {"PATH": "/usr/bin:/bin", **{f"V{n}": "x" * 100_000 for n in range(10)}}
    end, said = run(processes, order("sh", "-c", "echo ${#V0} ${#V9}", env=env))
    assert (end.code, said) == (0, b"100000 100000\n")


def test_an_environment_too_huge_for_the_system_is_said(processes: Processes, order: Make) -> None:
    env = {"PATH": "/usr/bin:/bin", **{f"V{n}": "x" * 100_000 for n in range(100)}}
    assert "Argument list too long" in run(processes, order("true", env=env))[0].error


def test_names_that_are_no_text_survive(processes: Processes, order: Make) -> None:
    end, said = run(processes, order("printf", "%s", "a\udcffb"))
    assert (end.code, said) == (0, b"a\xffb")


def test_a_child_that_takes_too_long_is_asked_to_end(processes: Processes, order: Make) -> None:
    script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    end, said = run(processes, order("sh", "-c", script, timeout=0.3, grace=10.0))
    assert (end.timed_out, end.code, said) == (True, 0, b"up\nbye\n")


def test_a_child_that_ignores_that_is_killed(processes: Processes, order: Make) -> None:
    end, _ = run(processes, order("sh", "-c", "trap '' TERM; while :; do sleep 1; done", timeout=0.2, grace=0.1))
    assert (end.timed_out, end.signal) == (True, signal.SIGKILL)


def test_the_signal_that_asks_can_be_another(processes: Processes, order: Make) -> None:
    asked = order("sh", "-c", "trap 'exit 7' INT; while :; do sleep 0.01; done", timeout=0.2, grace=10.0)
    end = processes.run(asked, lambda data: None, lambda *_: None, lambda stop: None, stop_signal=signal.SIGINT)
    assert end == Exit(code=7, timed_out=True)


@linux
def test_the_request_to_end_reaches_what_has_left_the_group(processes: Processes, order: Make) -> None:
    script = (
        "setsid sh -c 'trap \"echo told; exit\" TERM; echo up; while :; do sleep 0.01; done' & trap '' TERM; wait; wait"
    )
    watched = Watched(processes, order("sh", "-c", script, grace=10.0))
    watched.hears(b"up")
    watched.stop("enough")
    watched.hears(b"told")
    assert watched.result().stopped == "enough"


def test_a_stop_before_the_start_starts_nothing(processes: Processes, order: Make) -> None:
    started: list[int] = []
    end = processes.run(order("true"), lambda data: None, lambda pid, _: started.append(pid), lambda stop: stop("no"))
    assert (end, started) == (Exit(stopped="no"), [])


def test_a_stop_while_starting_ends_it(processes: Processes, order: Make) -> None:
    processes.start()
    for _ in range(20):  # the stop comes at any moment between the order and the first breath
        stops: list[Stop] = []
        arrived = threading.Event()

        def hold(stop: Stop, stops: list[Stop] = stops, arrived: threading.Event = arrived) -> None:
            stops.append(stop)
            arrived.set()

        def stop_it(stops: list[Stop] = stops, arrived: threading.Event = arrived) -> None:
            arrived.wait()
            stops[0]("at once")

        thread = threading.Thread(target=stop_it)
        thread.start()
        end = processes.run(order("sleep", "1000", grace=30.0), lambda data: None, lambda *_: None, hold)
        thread.join()
        assert (end.stopped, end.signal, end.error) in {("at once", signal.SIGTERM, ""), ("at once", 0, "")}


def test_stops_after_the_end_and_many_at_once_are_harmless(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order("sh", "-c", "echo up; exec sleep 1000"))
    watched.hears(b"up")
    for reason in ("first", "second", "third"):
        watched.stop(reason)
    assert watched.result() == Exit(signal=signal.SIGTERM, stopped="first")
    watched.stop("late")


@linux
def test_what_outlives_the_child_is_killed_and_counted(processes: Processes, order: Make) -> None:
    end, said = run(processes, order("sh", "-c", f"{ESCAPE} echo $escaped"))
    assert is_gone(int(said), within=0)
    assert (end.code, end.survivors, end.left) == (0, 1, 0)


@linux
def test_a_killed_child_takes_along_what_has_escaped(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order("sh", "-c", f"trap '' TERM; {ESCAPE} echo $escaped end; sleep 1000; sleep 1000"))
    escaped = int(watched.hears(b"end").split()[0])
    watched.stop("enough")
    assert watched.result().stopped == "enough"
    assert is_gone(escaped, within=0)


@linux
def test_a_child_that_holds_stdout_open_does_not_hold_the_end(processes: Processes, order: Make) -> None:
    end, said = run(processes, order("sh", "-c", "setsid sleep 1000 & echo done", timeout=5.0))
    assert (end.code, end.timed_out, end.survivors, said) == (0, False, 1, b"done\n")


BREED = """
    import os, signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tokens, fill = os.pipe()
    os.write(fill, b"x" * 200)  # how many may be born
    os.set_blocking(tokens, False)
    try:
        while os.read(tokens, 1):
            if os.fork() == 0:
                os.setsid()
    except BlockingIOError:
        print("all", flush=True)
    while True:
        signal.pause()
"""
HOP = """
    import os
    if os.fork() == 0:
        for _ in range(5000):  # every one ends as soon as it has a child
            if os.fork():
                os._exit(0)
        print("got through")
"""


@linux
def test_a_run_that_breeds_is_ended(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order(sys.executable, "-c", textwrap.dedent(BREED), grace=0.0))
    watched.hears(b"all")
    watched.stop("enough")
    end = watched.result()
    assert (end.signal, end.stopped, end.left) == (signal.SIGKILL, "enough", 0)
    assert left_of(order()) == 0


@linux
def test_a_descendant_that_hops_from_pid_to_pid_is_caught(processes: Processes, order: Make) -> None:
    end, said = run(processes, order(sys.executable, "-c", textwrap.dedent(HOP)))
    assert (end.code, end.left, said) == (0, 0, b"")
    assert left_of(order()) == 0


def test_a_flood_costs_bounded_memory_and_disk(processes: Processes, order: Make) -> None:
    count, limit = 300_000_000, 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    heard = [0]
    largest = [0]
    asked = order("sh", "-c", f"echo first; head -c {count} /dev/zero; echo last", limit=limit)

    def hear(data: bytes) -> None:
        heard[0] += len(data)
        if heard[0] % 256 == 0:
            largest[0] = max(largest[0], asked.log.stat().st_size)

    assert processes.run(asked, hear, lambda *_: None, lambda stop: None).code == 0
    log = asked.log.read_bytes()
    assert heard[0] == count + len("first\nlast\n")
    assert largest[0] <= 1.6 * limit
    assert len(log) <= limit + 64
    assert log.startswith(b"first\n\0")
    assert log.endswith(b"\0last\n")
    assert f"[ravi: {heard[0] - limit:,} bytes are left out here]".encode() in log
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


def test_a_callback_that_raises_ends_the_run_first(processes: Processes, order: Make) -> None:
    pids: list[int] = []

    def hear(data: bytes) -> None:
        raise ZeroDivisionError

    asked = order("sh", "-c", f"{ESCAPE} echo $escaped; sleep 1000")
    with pytest.raises(ZeroDivisionError):
        processes.run(asked, hear, lambda pid, moment: pids.append(pid), lambda stop: None)
    assert is_gone(pids[0], within=0)
    assert left_of(asked) == 0


def test_fifty_run_at_once(processes: Processes, order: Make, tmp_path: Path) -> None:
    together = threading.Barrier(50)
    ends: list[tuple[Exit, bytes]] = []

    def meet(pid: int, moment: int) -> None:
        together.wait(30)

    def one(number: int) -> None:
        said = bytearray()
        asked = order(
            "sh", "-c", "cat; exit $N", prompt=str(number), log=tmp_path / f"{number}.log", env={"N": str(number)}
        )
        end = processes.run(asked, said.extend, meet, lambda stop: None)
        ends.append((end, bytes(said)))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends, key=lambda end: end[0].code or 0) == [(Exit(code=n), str(n).encode()) for n in range(50)]


def test_no_descriptor_and_no_process_is_left(processes: Processes, order: Make) -> None:
    run(processes, order("true"))
    before = os.listdir("/dev/fd")
    for command in ("true", "ravi-nonesuch", "false"):
        run(processes, order(command, prompt="hello"))
    assert os.listdir("/dev/fd") == before


def test_a_daemon_out_of_descriptors_says_so(processes: Processes, order: Make) -> None:
    run(processes, order("true"))
    with contextlib.ExitStack() as stack:
        last = 0
        for _ in range(64):  # until every gap is filled
            last = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, last)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        ends = []
        for room in range(1, 14):
            resource.setrlimit(resource.RLIMIT_NOFILE, (last + room, limits[1]))
            ends.append(run(processes, order("true", prompt="hello"))[0])
    words = {end.error.rpartition(": ")[2] for end in ends[:-1] if end != Exit(code=0)}
    assert words == {"Too many open files"}
    assert ends[-1] == Exit(code=0)


@linux
def test_a_killed_keeper_takes_the_run_along(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order("sh", "-c", f"{ESCAPE} echo $escaped end; sleep 1000"))
    escaped = int(watched.hears(b"end").split()[0])
    os.kill(keeper.parent_of(watched.pid), signal.SIGKILL)
    assert watched.result().error == "the keeper of the run was killed"
    assert is_gone(watched.pid)
    assert is_gone(escaped)
    assert run(processes, order("true"))[0] == Exit(code=0)


@linux
def test_a_killed_server_disturbs_no_run_and_is_replaced(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order("sh", "-c", f"{ESCAPE} echo $escaped end; sleep 1000"))
    escaped = int(watched.hears(b"end").split()[0])
    server = keeper.parent_of(keeper.parent_of(watched.pid))
    os.kill(server, signal.SIGKILL)
    assert is_gone(server)
    assert run(processes, order("true", run="other.1"))[0] == Exit(code=0)
    assert not is_gone(watched.pid, within=0)
    watched.stop("enough")
    end = watched.result()
    assert (end.signal, end.stopped, end.error) == (signal.SIGTERM, "enough", "")
    assert is_gone(escaped, within=0)


@linux
def test_a_server_that_hears_nothing_is_replaced(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order("sh", "-c", "echo up; exec sleep 1000"))
    watched.hears(b"up")
    server = keeper.parent_of(keeper.parent_of(watched.pid))
    os.kill(server, signal.SIGSTOP)
    huge = {"PATH": "/usr/bin:/bin", **{f"V{n}": "x" * 100_000 for n in range(10)}}  # more than a socket holds
    assert processes._orders is not None
    processes._orders.settimeout(0.2)  # or this would take twenty seconds
    assert run(processes, order("true", run="other.1", env=huge))[0] == Exit(code=0)
    assert is_gone(server)
    watched.stop("enough")
    assert watched.result() == Exit(signal=signal.SIGTERM, stopped="enough")


def test_a_signal_from_the_terminal_does_not_end_the_keepers(processes: Processes, order: Make) -> None:
    watched = Watched(processes, order("sh", "-c", "echo up; exec sleep 1000"))
    watched.hears(b"up")
    mine = keeper.parent_of(watched.pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(mine, number)
        os.kill(keeper.parent_of(mine), number)
    watched.stop("enough")
    assert watched.result().stopped == "enough"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that believes it is not on Linux."""
    text = Path(keeper.__file__).read_text()
    assert 'LINUX = sys.platform == "linux"' in text
    (tmp_path / "keeper.py").write_text(text.replace('LINUX = sys.platform == "linux"', "LINUX = False"))
    monkeypatch.setattr(keeper, "__file__", str(tmp_path / "keeper.py"))


@pytest.mark.usefixtures("elsewhere")
def test_elsewhere_the_childs_group_is_ended(processes: Processes, order: Make) -> None:
    end, said = run(processes, order("sh", "-c", "sleep 1000 & echo $!"))
    assert (end.code, end.survivors) == (0, 1)
    assert is_gone(int(said))
    assert run(processes, order("sh", "-c", "exit 3"))[0] == Exit(code=3)
    assert run(processes, order("ravi-nonesuch"))[0].error == "no program `ravi-nonesuch` on the agent's PATH"
    stubborn = order("sh", "-c", "trap '' TERM; sleep 1000; sleep 1000", timeout=0.2, grace=0.1)
    assert run(processes, stubborn)[0] == Exit(signal=signal.SIGKILL, timed_out=True)
    watched = Watched(processes, order("sh", "-c", "sleep 1000 & echo $! up; wait"))
    other = int(watched.hears(b"up").split()[0])
    watched.stop("enough")
    assert watched.result().stopped == "enough"
    assert is_gone(other)


DAEMON = """
    import sys
    from pathlib import Path
    from ravi.runners.base import Order
    from ravi.runners.process import Processes
    work = Path(sys.argv[1])
    env = {"PATH": "/usr/bin:/bin", "RAVI_RUN": "login-7f3k2a.1", "RAVI_WORKSPACE": str(work)}
    order = Order("login-7f3k2a.1", "", ("sh", "-c", sys.argv[2]), work, env, 60.0, work / "run.log")
    def say(data):
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    Processes().run(order, say, lambda pid, moment: print(pid, flush=True), lambda stop: None)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Callable[[str], "subprocess.Popen[str]"]:
    def start(script: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", textwrap.dedent(DAEMON), str(tmp_path), script]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return start


@linux
@pytest.mark.fault
def test_a_killed_daemon_leaves_no_orphan(daemon: Callable[[str], "subprocess.Popen[str]"]) -> None:
    with daemon(f"trap '' TERM HUP; {ESCAPE} echo $escaped; sleep 1000; sleep 1000") as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        mine = keeper.parent_of(pids[0])
        server = keeper.parent_of(mine)
        parent.kill()
        assert [pid for pid in (*pids, mine, server) if not is_gone(pid, within=2.0)] == []


@linux
@pytest.mark.fault
def test_what_a_killed_daemon_and_its_killed_keepers_leave_is_swept(
    daemon: Callable[[str], "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    with daemon(f"{ESCAPE} echo $escaped; exec sleep 1000") as parent:
        assert parent.stdout is not None
        agent, escaped = (int(parent.stdout.readline()) for _ in range(2))
        mine = keeper.parent_of(agent)
        for pid in (keeper.parent_of(mine), mine, parent.pid):
            os.kill(pid, signal.SIGKILL)
    assert is_gone(agent)  # the kernel saw to that
    assert not is_gone(escaped, within=0)
    assert process.sweep_all([], str(tmp_path / "elsewhere")) == {}
    assert process.sweep("login-7f3k2a.1", str(tmp_path / "elsewhere")) == 0
    assert process.sweep_all(["login-7f3k2a.1"], str(tmp_path)) == {}
    assert process.sweep_all([], str(tmp_path)) == {"login-7f3k2a.1": 1}
    assert is_gone(escaped)
    assert process.sweep("login-7f3k2a.1", str(tmp_path)) == 0


BUSY = """
    import sys, threading
    from pathlib import Path
    from ravi.runners.base import Order
    from ravi.runners.process import Processes
    work = Path(sys.argv[1])
    processes = Processes()
    processes.start()
    print(processes._server.pid, flush=True)
    def work_on(number):
        name = f"busy-{number}.1"
        env = {"PATH": "/usr/bin:/bin", "RAVI_RUN": name, "RAVI_WORKSPACE": str(work)}
        order = Order(name, "hello", ("sh", "-c", sys.argv[2]), work, env, 60.0, work / f"{name}.log")
        while True:
            processes.run(order, lambda data: None, lambda *_: None, lambda stop: None)
    for number in range(8):
        threading.Thread(target=work_on, args=(number,)).start()
"""


@linux
@pytest.mark.fault
def test_a_daemon_killed_at_any_moment_leaves_no_orphan(tmp_path: Path) -> None:
    chance = random.Random(7)
    script = "trap '' TERM HUP; setsid sh -c 'setsid sleep 1000 & exec sleep 1000' & exec sleep 0.005"
    for _ in range(200 if os.environ.get("RAVI_FAULTS") == "full" else 8):
        command = [sys.executable, "-c", textwrap.dedent(BUSY), str(tmp_path), script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            server = int(parent.stdout.readline())
            moment = threading.Event()
            moment.wait(chance.random() * 0.1)  # the moment is what is tried
            parent.kill()
        assert is_gone(server, within=2.0)
        assert process.sweep_all([], str(tmp_path)) == {}
