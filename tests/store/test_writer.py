"""The one writer: each change its own commit, durable when it is acknowledged, whatever dies or fills up meanwhile."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from workshop import AUTHOR, TRACE, Store, init, puts, python, times

from ravi.core.trailers import Message, parse
from ravi.errors import Conflict, Deposed, Malformed, NotFound, Refused, Unavailable
from ravi.store import objects as objects_module
from ravi.store import packs
from ravi.store.objects import FILE, FOLDER, TreeEntry
from ravi.store.refs import EPOCH, MAIN
from ravi.store.writer import Draft, Tip, Writer


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = init(tmp_path / "work")
    yield made
    made.close()


def _subjects(store: Store, ref: str = MAIN) -> list[str]:
    return store.git("log", "--first-parent", "--reverse", "--format=%s", ref).split("\n")


# -- one commit


def test_a_draft_becomes_a_commit_with_its_author_and_trailers(store: Store) -> None:
    message = Message("task login-7f3k2a: open", "", {"Ravi-Task": "login-7f3k2a", "Ravi-Event": "4033f993b0be"})
    oid = store.writer.record(
        lambda tip: Draft(message, {"tasks/2026/11/20/login-7f3k2a/TASK.md": b"# Log in\n"}, AUTHOR)
    )
    assert store.git("rev-parse", "refs/ravi/main") == oid
    assert store.git("log", "--format=%an <%ae> %at / %cn <%ce> %ct%n%B", MAIN).split("\n") == [
        "Ada <ada@example.org> 1700000000 / ravi <ravi@agents.invalid> 1795170153",
        "task login-7f3k2a: open", "", "Ravi-Event: 4033f993b0be", "Ravi-Task: login-7f3k2a", "",
    ][:-1]  # fmt: skip
    assert store.git("log", "--format=%(trailers:key=Ravi-Task,valueonly)", MAIN).strip() == "login-7f3k2a"
    assert store.git("show", f"{MAIN}:tasks/2026/11/20/login-7f3k2a/TASK.md") == "# Log in"
    store.fsck()


def test_the_proposer_sees_the_tip_it_builds_on(store: Store) -> None:
    first = store.write("count", b"1")
    seen: list[Tip] = []

    def propose(tip: Tip) -> Draft:
        seen.append(tip)
        return Draft(Message("count: up"), {"count": b"%d" % (int(tip.read("count") or 0) + 1)}, AUTHOR)

    second = store.writer.record(propose)
    assert second is not None
    assert (seen[0].commit, seen[0].tree) == (first, store.objects.commit(first).tree)
    assert seen[0].read("none") is None
    assert store.objects.read(second, "count") == b"2"
    assert store.objects.commit(second).parents == (first,)


def test_before_the_first_commit_the_tip_is_nothing(store: Store) -> None:
    def propose(tip: Tip) -> Draft:
        assert (tip.commit, tip.tree, tip.read("a")) == (None, None, None)
        return Draft(Message("workspace: begun"), {}, AUTHOR)

    oid = store.writer.record(propose)
    assert oid is not None
    assert store.objects.commit(oid).parents == ()
    store.fsck()


def test_nothing_proposed_or_nothing_new_is_no_commit(store: Store) -> None:
    tip = store.write("a", b"1")
    assert store.writer.record(lambda _: None) is None
    assert store.writer.record(puts("a", b"1")) is None
    assert store.writer.record(puts("b", None)) is None
    assert store.refs.read(MAIN) == tip
    empty = store.writer.record(lambda _: Draft(Message("note: seen"), {}, AUTHOR, empty_ok=True))
    assert empty is not None
    assert store.objects.commit(empty).parents == (tip,)


def test_a_merge_names_its_parents_once_and_may_change_nothing(store: Store) -> None:
    main = store.write("a", b"1")
    side = store.writer.record(puts("b", b"2"), ref="refs/ravi/runs/x.1", base=main)
    assert side is not None
    merge = store.writer.record(lambda tip: Draft(Message("run x.1: back"), {}, AUTHOR, parents=(side, main)))
    assert merge is not None
    assert store.objects.commit(merge).parents == (main, side)
    for wrong in ("1" * 40, store.objects.commit(main).tree):
        with pytest.raises(NotFound, match="the draft's parent"):
            store.writer.record(partial(_merge, wrong))
    store.fsck()


def _merge(parent: str, tip: Tip) -> Draft:
    return Draft(Message("merge"), {}, AUTHOR, parents=(parent,))


def _replace(tree: str, tip: Tip) -> Draft:
    return Draft(Message("replace"), {}, AUTHOR, tree=tree)


def test_a_tree_can_be_given_whole_and_changed(store: Store) -> None:
    first = store.write("a", b"1")
    store.write("b", b"2")
    tree = store.objects.commit(first).tree
    oid = store.writer.record(lambda tip: Draft(Message("back"), {"c": b"3"}, AUTHOR, tree=tree))
    assert oid is not None
    assert [path for path, _ in store.objects.walk(oid)] == ["a", "c"]
    for wrong in ("1" * 40, first):
        with pytest.raises(NotFound, match="the draft's tree"):
            store.writer.record(partial(_replace, wrong))


def test_blobs_put_beforehand_are_recorded_with_the_commit(store: Store) -> None:
    big = store.objects.put_blob(b"output" * 1000)
    oid = store.writer.record(lambda tip: Draft(Message("out"), {"outputs/x": TreeEntry(FILE, big)}, AUTHOR))
    assert oid is not None
    again = store.again()
    assert again.objects.read(oid, "outputs/x") == b"output" * 1000
    again.close()
    with pytest.raises(NotFound):
        store.writer.record(lambda tip: Draft(Message("out"), {"y": TreeEntry(FOLDER, "2" * 40)}, AUTHOR))


def test_a_claim_is_a_ref_that_must_not_exist(store: Store) -> None:
    base, ref = store.write("a", b"1"), "refs/ravi/runs/login-7f3k2a.1"
    store.write("a", b"2")
    claim = store.writer.record(puts("runs/1/RUN.md", b"running"), ref=ref, base=base)
    assert claim is not None
    assert store.objects.commit(claim).parents == (base,)
    with pytest.raises(Conflict, match="exists already"):
        store.writer.record(puts("runs/1/RUN.md", b"mine"), ref=ref, base=base)
    work = store.writer.record(puts("outputs/x", b"y"), ref=ref)
    assert work is not None
    assert store.objects.commit(work).parents == (claim,)
    with pytest.raises(NotFound):
        store.writer.record(puts("x", b"y"), ref=ref + "0", base="1" * 40)
    with pytest.raises(Malformed):
        store.writer.record(puts("x", b"y"), ref="refs/bad..name", base=base)
    assert store.refs.read(MAIN) != base


def test_a_trailer_cannot_be_forged_by_what_is_said(store: Store) -> None:
    oid = store.writer.record(puts("a", b"1", "x\n\nRavi-Task: forged"))
    assert oid is not None
    assert parse(store.objects.commit(oid).message).trailers == {}


# -- faults of proposers, and of others


def test_a_proposer_that_raises_harms_only_itself_and_leaves_no_objects(store: Store) -> None:
    lost: list[str] = []

    def fails(tip: Tip) -> Draft:
        lost.append(tip.objects.put_blob(b"never"))
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        store.writer.record(fails)
    store.write("a", b"1")
    assert store.objects.kind(lost[0]) is None
    assert _subjects(store) == ["note a: written"]


def test_a_proposer_that_records_is_told_instead_of_waiting_for_itself(store: Store) -> None:
    with pytest.raises(RuntimeError, match="must not record"):
        store.writer.record(lambda tip: Draft(Message("x"), {"a": store.write("b", b"1").encode()}, AUTHOR))
    assert store.write("a", b"1")


def test_a_change_that_cannot_be_is_refused_to_its_proposer(store: Store) -> None:
    store.write("a", b"1")
    for path, fault in (("a/b", Refused), ("../x", Malformed), (".git/config", Malformed)):
        with pytest.raises(fault):
            store.writer.record(puts(path, b"x"))
    assert _subjects(store) == ["note a: written"]


def test_a_ref_that_somebody_else_moves_is_drafted_again_on_top(store: Store) -> None:
    store.write("a", b"1")
    calls = 0

    def propose(tip: Tip) -> Draft:
        nonlocal calls
        calls += 1
        if calls == 1:  # git itself takes no lock of ours
            other = store.git("commit-tree", f"{MAIN}^{{tree}}", "-p", MAIN, "-m", "fetched")
            store.git("update-ref", MAIN, other)
        return Draft(Message("mine"), {"b": b"2"}, AUTHOR)

    assert store.writer.record(propose) is not None
    assert calls == 2
    assert _subjects(store) == ["note a: written", "fetched", "mine"]


def test_a_ref_that_never_rests_is_given_up(store: Store) -> None:
    store.write("a", b"1")

    def propose(tip: Tip) -> Draft:
        store.git("update-ref", MAIN, store.git("commit-tree", f"{MAIN}^{{tree}}", "-p", MAIN, "-m", "again"))
        return Draft(Message("mine"), {"b": b"2"}, AUTHOR)

    with pytest.raises(Conflict, match="keeps moving"):
        store.writer.record(propose)


def test_a_name_in_conflict_is_not_tried_for_ever(store: Store) -> None:
    base = store.write("a", b"1")
    store.writer.record(puts("b", b"1"), ref="refs/ravi/runs/x", base=base)
    with pytest.raises(Conflict):
        store.writer.record(puts("c", b"1"), ref="refs/ravi/runs/x/y", base=base)
    assert store.write("d", b"1")


def test_an_interrupted_writer_lets_the_next_one_work(store: Store) -> None:
    def interrupted(tip: Tip) -> Draft:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.writer.record(interrupted)
    assert store.write("a", b"1")
    assert store.again().writer.record(puts("b", b"1"))


def test_a_disk_that_is_full_is_said_and_the_next_try_works(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.write("a", b"1")

    def full(fd: int, *parts: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packs, "write_all", full)
        with pytest.raises(Unavailable, match="No space left on device; nothing was recorded"):
            store.write("b", b"2")
    assert not store.objects._pending
    assert store.refs.read(MAIN) == first
    assert not [name for name in os.listdir(store.objects.folder) if name.endswith(".tmp")]
    store.write("c", b"3")
    assert _subjects(store) == ["note a: written", "note c: written"]
    store.fsck()


def test_no_thread_for_folding_is_no_fault(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    for n in range(packs.FOLD_ABOVE):
        store.write("a", b"%d" % n)
    monkeypatch.setattr(threading.Thread, "start", none)
    store.write("a", b"end")
    store.write("a", b"more")


# -- many at once


def _together(count: int, work: Callable[[int], None]) -> list[BaseException]:
    faults: list[BaseException] = []
    begin = threading.Barrier(count)

    def one(n: int) -> None:
        try:
            begin.wait()
            work(n)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults


def test_many_threads_share_their_syncs_and_each_has_its_own_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = 0
    write = packs.write

    def counted(*args: object, **more: object) -> str:
        nonlocal flushes
        flushes += 1
        return write(*args, **more)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(packs, "write", counted)
    made: dict[str, str] = {}

    def work(n: int) -> None:
        for k in range(10):
            oid = store.writer.record(puts(f"{n}/{k}", b"x"))
            assert oid is not None
            made[oid] = f"note {n}/{k}: written"

    assert not _together(20, work)
    lines = store.git("log", "--format=%H %s", MAIN).split("\n")
    assert {line[:40]: line[41:] for line in lines} == made
    assert len(lines) == 200
    assert store.git("rev-list", "--count", "--merges", MAIN) == "0"
    assert flushes < 100
    for n in range(20):  # each one's own are in its own order
        mine = [line[41:] for line in reversed(lines) if line[41:].startswith(f"note {n}/")]
        assert mine == [f"note {n}/{k}: written" for k in range(10)]
    store.fsck()


def test_counters_raised_by_many_threads_are_not_lost(store: Store) -> None:
    def up(tip: Tip) -> Draft:
        return Draft(Message("up"), {"count": b"%d" % (int(tip.read("count") or 0) + 1)}, AUTHOR)

    def work(n: int) -> None:
        for _ in range(25):
            store.writer.record(up)

    assert not _together(8, work)
    tip = store.refs.read(MAIN)
    assert tip is not None
    assert store.objects.read(tip, "count") == b"200"


def test_in_a_group_each_gets_its_own_end(store: Store) -> None:
    base = store.write("a", b"0")
    ends: dict[int, object] = {}

    def work(n: int) -> None:
        propose = [puts(f"ok/{n}", b"x"), puts("a/b", b"x"), lambda tip: None, puts(f"r/{n}", b"x")][n % 4]
        try:
            if n % 4 == 3:
                ends[n] = store.writer.record(propose, ref="refs/ravi/runs/one", base=base)
            else:
                ends[n] = store.writer.record(propose)
        except Exception as fault:
            ends[n] = type(fault)

    assert not _together(40, work)
    assert [ends[n] for n in range(1, 40, 4)] == [Refused] * 10
    assert [ends[n] for n in range(2, 40, 4)] == [None] * 10
    claims = [ends[n] for n in range(3, 40, 4)]
    assert claims.count(Conflict) == 9
    assert store.refs.read("refs/ravi/runs/one") in claims
    assert set(store.git("rev-list", f"{base}..{MAIN}").split()) == {ends[n] for n in range(0, 40, 4)}


def test_an_interrupt_in_one_thread_of_a_group_leaves_nobody_waiting(store: Store) -> None:
    ends: list[object] = []

    def interrupted(tip: Tip) -> Draft:
        raise KeyboardInterrupt

    def work(n: int) -> None:
        try:
            ends.append(store.writer.record(interrupted if n == 5 else puts(f"{n}", b"x")))
        except (KeyboardInterrupt, Unavailable) as fault:
            ends.append(type(fault))

    assert not _together(12, work)
    assert len(ends) == 12
    assert store.write("after", b"x")


_WRITE = """
from pathlib import Path
from workshop import opened, puts
store = opened(Path(sys.argv[1]))
for n in range(int(sys.argv[3])):
    print(store.writer.record(puts(f"{sys.argv[2]}/{n}", b"x")), flush=True)
store.close()
"""


@pytest.mark.fault
def test_four_processes_write_at_once_and_every_commit_is_in_one_line(store: Store) -> None:
    count = times(25, 500)
    writing = [subprocess.Popen(python(_WRITE, store.root, name, count), stdout=subprocess.PIPE) for name in "abcd"]
    made = {oid for one in writing for oid in one.communicate()[0].decode().split()}
    assert [one.returncode for one in writing] == [0] * 4
    assert len(made) == 4 * count
    assert set(store.git("rev-list", MAIN).split()) == made
    assert store.git("rev-list", "--count", "--first-parent", MAIN) == str(4 * count)
    store.fsck()


def test_the_packs_of_many_commits_stay_few(store: Store) -> None:
    most = 0
    for n in range(150):
        store.write(f"{n % 9}", b"%d" % n)
        most = max(most, sum(name.endswith(".pack") for name in os.listdir(store.objects.folder)))
    store.writer.close()
    assert most <= 45
    assert not [name for name in os.listdir(store.objects.folder) if name.endswith(".keep")]
    store.fsck()


# -- who may write


def test_a_takeover_deposes_who_wrote_before(store: Store) -> None:
    first = store.writer.take_over("daemon 1")
    assert first.record(puts("a", b"1"))
    second = store.again().writer.take_over("daemon 2")
    assert second.record(puts("b", b"1"))
    with pytest.raises(Deposed, match="taken over by daemon 2"):
        first.record(puts("c", b"1"))
    with pytest.raises(Deposed):
        first.record(puts("c", b"1"), ref="refs/ravi/runs/x", base=store.refs.read(MAIN))
    assert store.write("d", b"1")  # a command beside the daemon has no epoch, and is not fenced
    assert _subjects(store) == ["note a: written", "note b: written", "note d: written"]
    assert store.git("log", "--reverse", "--format=%(trailers:key=Ravi-Epoch,valueonly,separator=)", MAIN) == "1\n2"
    assert json.loads(store.git("cat-file", "blob", EPOCH)) == {"epoch": 2, "holder": "daemon 2"}
    store.fsck()


def test_a_writer_of_a_known_epoch_goes_on_where_it_was(store: Store) -> None:
    first = store.writer.take_over("daemon 1")
    same = Writer(store.objects, store.refs, store.dirs.common_dir, store.clock, first.epoch)
    oid = same.record(puts("a", b"1"))
    assert oid is not None
    assert parse(store.objects.commit(oid).message).trailers["Ravi-Epoch"] == "1"
    store.git("update-ref", "-d", EPOCH)
    with pytest.raises(Deposed, match="taken over"):
        same.record(puts("b", b"1"))


def test_an_epoch_that_cannot_be_read_is_followed_by_the_first(store: Store) -> None:
    store.git("update-ref", EPOCH, store.git("hash-object", "-w", "--stdin", input=b"nonsense"))
    store.writer.take_over("daemon").record(puts("a", b"1"))
    assert json.loads(store.git("cat-file", "blob", EPOCH))["epoch"] == 1


@pytest.mark.fault
def test_a_stopped_leader_that_wakes_up_writes_nothing(store: Store) -> None:
    """SIGSTOP is the pause of a laptop: the lock of the sleeper frees nothing, the epoch fences it."""
    code = """
from pathlib import Path
from workshop import opened, puts
from ravi.errors import Deposed
writer = opened(Path(sys.argv[1])).writer.take_over("sleeper")
print(writer.record(puts("a", b"1")), flush=True)
sys.stdin.readline()
try:
    writer.record(puts("b", b"1"))
except Deposed:
    print("deposed", flush=True)
"""
    with subprocess.Popen(python(code, store.root), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdin is not None
        assert len(sleeper.stdout.readline()) == 41
        sleeper.send_signal(signal.SIGSTOP)
        assert store.writer.take_over("awake").record(puts("c", b"1"))
        sleeper.send_signal(signal.SIGCONT)
        sleeper.stdin.write(b"go\n")
        sleeper.stdin.flush()
        assert sleeper.stdout.readline() == b"deposed\n"
    assert _subjects(store) == ["note a: written", "note c: written"]


# -- kills and failing disks


_FOR_EVER = """
import itertools, threading
from pathlib import Path
from workshop import opened, puts
store = opened(Path(sys.argv[1]))
def work(name):
    for n in itertools.count():
        oid = store.writer.record(puts(f"{name}/{n % 50}/{n}", b"x" * 100))
        sys.stdout.write(oid + "\\n")
        sys.stdout.flush()
for name in sys.argv[2:]:
    threading.Thread(target=work, args=(name,)).start()
"""


@pytest.mark.fault
def test_what_was_acknowledged_survives_kill_9_at_any_moment(store: Store) -> None:
    moments = random.Random(20261120)
    acknowledged: set[str] = set()
    for round_ in range(times(20, 300)):
        command = python(_FOR_EVER, store.root, *(f"{round_}-{n}" for n in range(1 + round_ % 3)))
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writing:
            assert writing.stdout is not None
            lines = [writing.stdout.readline()]
            stop = threading.Timer(moments.uniform(0, 0.12), writing.kill)
            stop.start()
            lines += writing.stdout.readlines()
            stop.join()
        acknowledged |= {line.decode().strip() for line in lines if line.endswith(b"\n")}
        reachable = set(store.git("rev-list", MAIN).split())
        assert acknowledged <= reachable
    store.fsck()
    assert len(acknowledged) >= 20
    assert store.write("after", b"x")


_ONE = """
import os
from pathlib import Path
from workshop import opened, puts
from ravi.errors import RaviError
try:
    store = opened(Path(sys.argv[1]))
    oid = store.writer.record(puts(sys.argv[2], b"x"))
    store.close()
except RaviError as fault:
    sys.exit(str(fault))
try:
    print(oid, flush=True)
except OSError:
    os._exit(3)
"""
_FAULTS = [
    ("fsync", "error=EIO", 8),
    ("write", "error=ENOSPC", 16),
    ("write", "error=EIO", 16),
    ("rename", "error=ENOSPC", 4),
    ("rename", "error=EIO", 4),
    ("mkdir", "error=ENOSPC", 3),
    ("fchmod", "error=EPERM", 2),
    ("unlink", "error=EIO", 3),
    ("flock", "error=ENOLCK", 3),
    ("fsync", "signal=SIGKILL", 8),
    ("write", "signal=SIGKILL", 16),
    ("rename", "signal=SIGKILL", 4),
    ("fchmod", "signal=SIGKILL", 2),
    ("unlink", "signal=SIGKILL", 3),
    ("flock", "signal=SIGKILL", 4),
    ("pread64", "error=EIO", 8),
]


@pytest.mark.fault
@pytest.mark.parametrize(("call", "fault", "last"), _FAULTS, ids=str)
def test_a_fault_at_any_system_call_leaves_the_old_or_the_new(store: Store, call: str, fault: str, last: int) -> None:
    """The n-th call fails, or kills, for every n: no half commit, no lost ref, and the next commit works."""
    if not _can_trace():
        pytest.skip("strace is not installed, or not allowed here")
    tip = store.write("first", b"x")
    outcomes = []
    for n in range(1, last + 1, times(2, 1)):
        shutil.rmtree(store.root / ".git" / "ravi")  # locks lie there, and nothing that matters
        when = f"{n}+" if fault == "error=ENOSPC" else str(n)  # a full disk stays full
        trace = [*TRACE, "-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}"]
        done = subprocess.run([*trace, *python(_ONE, store.root, f"n/{n}")], capture_output=True, check=False)
        said = done.stdout.decode().strip()
        now = store.refs.read(MAIN)
        assert now is not None
        outcomes.append(done.returncode)
        if said:
            assert now == said
        assert now == tip or store.objects.commit(now).parents == (tip,)
        assert "Traceback" not in (words := done.stderr.decode()), words
        store.fsck()
        tip = store.write(f"after/{n}", b"x")
        assert store.objects.commit(tip).parents == (now,)
    # a mark that stays behind is no reason to say no, and what we cannot read git may
    assert any(outcomes) or call in ("unlink", "pread64")
    store.fsck()


def _can_trace() -> bool:
    try:
        return subprocess.run([*TRACE, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_the_limits_are_what_the_tests_think(store: Store) -> None:
    assert objects_module._SPILL >= 1 << 20
    assert packs.FOLD_ABOVE <= 40
