"""SIGKILL of the daemon at any moment, while an editor saves and others write: nothing is lost or done twice."""

import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from harness import CURSOR, MAIN, Daemon, Editor, Promises, chance, check, percentile, ref, size

pytestmark = pytest.mark.fault

WORKER = 'echo "$RAVI_RUN" >> "$LEDGER"; mkdir -p outputs; echo "by $RAVI_RUN" > outputs/out.txt; echo done\n'
# It hands out two parts, however often it is killed in between, and is woken when both have ended.
BOSS = (
    'echo "$RAVI_RUN" >> "$LEDGER"\n'
    'if [ "$(ravi tasks list --all --parent "$RAVI_TASK" | wc -l)" -lt 2 ]; then\n'
    '  ravi tasks new "part one" -a worker >/dev/null && ravi tasks new "part two" -a worker >/dev/null || exit 9\n'
    "fi\n"
    'mkdir -p outputs; echo "by $RAVI_RUN" > outputs/out.txt\n'
)


class Writers:
    """A person at an editor and another at a shell. Each does one thing whenever a permit is given."""

    def __init__(self, workspace, promises: Promises) -> None:
        self.workspace, self.promises = workspace, promises
        self.editor = Editor(workspace, promises, "editor")
        self.paths: list[str] = []
        self.tasks: list[str] = []
        self.killed_calls = 0
        self.rng = chance("shell")
        self._permits: list[queue.Queue[bool]] = []
        self._faults: list[BaseException] = []
        self._threads = [self._thread(self.save), self._thread(self.type)]

    def save(self, count: int) -> None:
        """A new task, and one more line in an older one."""
        if self.paths:
            self.editor.add(self.editor.rng.choice(self.paths))
        path = self.editor.new(f"saved-{count}", "worker")
        self.promises.task(f"saved-{count}", makes="out.txt")
        self.paths.append(path)
        self.tasks.append(f"saved-{count}")

    def type(self, count: int) -> None:
        """One command, sometimes killed in the middle."""
        word = f"shell-{count}-{self.rng.getrandbits(32):08x}"
        kill_after = self.rng.uniform(0.02, 0.4) if self.rng.random() < 0.2 else 0.0
        verb = self.rng.choice(("new", "comment", "edit")) if self.tasks else "new"
        if verb == "new":
            words = ["tasks", "new", word, "--id", f"typed-{count}", "-a", "worker"]
            done = self.promises.call(self.workspace, *words, holding=word, kill_after=kill_after)
            self.promises.task(f"typed-{count}", "done" if done.code == 0 else "done|missing", makes="out.txt")
        else:
            known = self.rng.choice(self.tasks)
            words = ["comment", known, word] if verb == "comment" else ["edit", known, "--title", word]
            done = self.promises.call(self.workspace, "tasks", *words, holding=word, kill_after=kill_after)
        self.killed_calls += done.code == -9

    def permit(self) -> None:
        """Let each do one thing more."""
        for permits in self._permits:
            permits.put(True)

    def close(self) -> None:
        """Let them finish, and raise what went wrong."""
        for permits in self._permits:
            permits.put(False)
        for thread in self._threads:
            thread.join()
        if self._faults:
            raise self._faults[0]

    def _thread(self, work: Callable[[int], None]) -> threading.Thread:
        permits: queue.Queue[bool] = queue.Queue()
        self._permits.append(permits)

        def go() -> None:
            count = 0
            while permits.get():
                count += 1
                try:
                    work(count)
                except BaseException as fault:
                    self._faults.append(fault)
                    return

        thread = threading.Thread(target=go)
        thread.start()
        return thread


@contextmanager
def writing(workspace, promises: Promises) -> Iterator[Writers]:
    writers = Writers(workspace, promises)
    try:
        yield writers
    finally:
        writers.close()


def agents(workspace, tmp_path: Path) -> Path:
    """The agents, and the file in which they write down that they began."""
    ledger = tmp_path / "ledger"
    ledger.touch()
    extra = f"concurrency: 4\nenv:\n  LEDGER: {ledger}\n"
    workspace.agent("worker", WORKER, extra)
    workspace.agent("boss", BOSS, extra)
    return ledger


def answer(workspace) -> int:
    """Say `retry` to every task that ravi asks a person about, because it died five times over it; how many."""
    workspace.run("up", "--until-idle", "--timeout", "120s")
    blocked = workspace.json("tasks", "list", "--status", "blocked")
    for task in blocked:
        assert "ravi itself ended" in task["blocker"], task
        workspace.run("tasks", "retry", task["id"])
    return len(blocked)


def test_a_killed_daemon_loses_nothing_and_does_nothing_twice(workspace, tmp_path, figures):
    kills = size(50, 1000)
    promises = Promises()
    ledger = agents(workspace, tmp_path)
    workspace.up()
    boss = Editor(workspace, promises, "boss")
    rng = chance("kills")
    recovered: list[float] = []
    with writing(workspace, promises) as writers:
        for number in range(kills):
            is_measured = number % 3 == 0
            if is_measured:  # a task that was saved while nobody was there: who recovers takes it up
                boss.new(f"waits-{number}", "worker", "priority: 100\n")
                promises.task(f"waits-{number}", makes="out.txt")
            if number % 15 == 7:
                boss.new(f"boss-{number}", "boss")
                promises.task(f"boss-{number}")
            writers.permit()
            with Daemon(workspace) as daemon:
                if is_measured:
                    run = f"waits-{number}.1\n"
                    daemon.until(lambda run=run: run in ledger.read_text())
                    recovered.append(daemon.elapsed())
                    daemon.kill(rng.uniform(0, 0.4))
                else:
                    daemon.kill(rng.uniform(0, 1.0))
                promises.complaints += [daemon.said()] if "Traceback" in daemon.said() else []
    asked = answer(workspace)
    found = check(workspace, promises, ledger=ledger)
    for task in (task for task in promises.ends if task.startswith("boss-")):
        parts = workspace.json("tasks", "list", "--all", "--parent", task)
        assert [(part["status"], len(part["runs"]) > 0) for part in parts] == [("done", True)] * 2, (task, parts)
    figures(
        kills=kills,
        killed_calls=writers.killed_calls,
        saves=len(promises.saved),
        acknowledged=len(promises.acknowledged),
        lost=found.lost,
        doubled=found.doubled,
        half=found.half,
        runs=found.runs,
        interrupted=found.interrupted,
        asked_a_person=asked,
        commits=found.commits,
        restart_to_work_p50=f"{percentile(recovered, 0.5):.2f} s",
        restart_to_work_p99=f"{percentile(recovered, 0.99):.2f} s",
    )


def test_a_daemon_that_is_asked_to_end_does_so_at_any_moment(workspace, tmp_path, figures):
    promises = Promises()
    ledger = agents(workspace, tmp_path)
    workspace.agent(
        "sleeper", f'{WORKER}case "$RAVI_RUN" in *.1) exec sleep 300;; esac\n', f"env:\n  LEDGER: {ledger}\n"
    )
    workspace.up()
    rng = chance("terminations")
    took: list[float] = []
    rounds = size(12, 500)
    with writing(workspace, promises) as writers:
        for number in range(rounds):
            if number % 6 == 0:
                writers.editor.new(f"sleeps-{number}", "sleeper")
                promises.task(f"sleeps-{number}", makes="out.txt")
            writers.permit()
            with Daemon(workspace) as daemon:
                with suppress(subprocess.TimeoutExpired):  # the moment is chance's
                    daemon.process.wait(rng.uniform(0.1, 1.5))
                begun = daemon.elapsed()
                assert daemon.stop() in (0, -signal.SIGTERM), daemon.said()  # the latter before it was there to hear
                took.append(daemon.elapsed() - begun)
                assert "Traceback" not in daemon.said(), daemon.said()
    found = check(workspace, promises, ledger=ledger)
    figures(
        rounds=rounds,
        lost=found.lost,
        doubled=found.doubled,
        half=found.half,
        interrupted=found.interrupted,
        ended_after_p50=f"{percentile(took, 0.5):.2f} s",
        ended_after_p99=f"{percentile(took, 0.99):.2f} s",
    )


def test_a_second_daemon_says_who_leads_and_does_nothing(workspace, tmp_path):
    promises = Promises()
    ledger = agents(workspace, tmp_path)
    with Daemon(workspace) as first:
        first.until(first.is_leading)
        for _ in range(size(3, 20)):
            done = promises.call(workspace, "up", "--until-idle")
            assert (done.code, f"process {first.process.pid} on" in done.err) == (5, True), done
        assert first.stop() == 0
    check(workspace, promises, ledger=ledger)


@pytest.mark.parametrize("is_at_work", [True, False], ids=["at work", "idle"])
def test_a_leader_that_was_stopped_for_a_while_is_deposed(is_at_work: bool, workspace, tmp_path, figures):
    """Stopped, so that its lock is held; the lock file deleted, so that another one leads; and let go again."""
    promises = Promises()
    ledger = agents(workspace, tmp_path)
    gate = tmp_path / "gate"
    slow = f'{WORKER}while [ ! -e "{gate}" ]; do sleep 0.02; done\n'
    workspace.agent("slow", slow, f"concurrency: 4\nenv:\n  LEDGER: {ledger}\n")
    workspace.up()
    editor = Editor(workspace, promises, "editor")
    rounds = size(2, 20)
    words = ""
    for number in range(rounds):
        gate.unlink(missing_ok=True)
        with Daemon(workspace) as first, ExitStack() as stack:
            first.until(first.is_leading)
            if is_at_work:
                editor.new(f"long-{number}", "slow")
                promises.task(f"long-{number}", makes="out.txt")
                first.until(lambda number=number: f"long-{number}.1\n" in ledger.read_text())
            else:
                first.until(lambda: ref(workspace, CURSOR) == ref(workspace, MAIN) == ref(workspace, "HEAD"))
            first.process.send_signal(signal.SIGSTOP)
            (workspace.root / ".git/ravi/leader.lock").unlink()
            second = stack.enter_context(Daemon(workspace))
            second.until(second.is_leading)
            gate.touch()
            first.process.send_signal(signal.SIGCONT)
            editor.new(f"then-{number}", "worker")
            promises.task(f"then-{number}", makes="out.txt")
            second.until(lambda number=number: f"then-{number}.1\n" in ledger.read_text())
            assert first.process.wait(30) == 5, first.said()
            words = first.said()
            assert "was taken over" in words, words
            assert f"pid {second.process.pid}" in words, words
            assert "Traceback" not in words, words
            assert second.stop() == 0, second.said()
            assert "Traceback" not in second.said(), second.said()
    found = check(workspace, promises, ledger=ledger)
    figures(rounds=rounds, lost=found.lost, doubled=found.doubled, half=found.half, interrupted=found.interrupted)
