"""A remote on disk: what is fetched, what is pushed by compare-and-swap, who leads; and who a clone is."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import Store, init, opened, shell

from ravi.errors import NotFound, Refused, Unavailable
from ravi.store.refs import MAIN
from ravi.store.remote import LEADER, Lead, Moved, Remote, There, Update, clone_id, read_lead

BRANCH = "refs/heads/main"
NOTHING = There(None, None, None, None, {})


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    place = tmp_path / "hub.git"
    shell("init", "--quiet", "--bare", str(place), cwd=tmp_path)
    return place


@pytest.fixture
def store(tmp_path: Path, hub: Path) -> Iterator[Store]:
    made = init(tmp_path / "here")
    made.git("remote", "add", "origin", str(hub))
    yield made
    made.close()


@pytest.fixture
def remote(store: Store) -> Remote:
    return Remote(store.dirs, store.refs, "origin")


def other(store: Store, hub: Path) -> tuple[Store, Remote]:
    """Another clone with the same history."""
    root = store.root.parent / "there"
    shell("clone", "--quiet", str(hub), str(root), cwd=store.root.parent)
    made = opened(root)
    return made, Remote(made.dirs, made.refs, "origin")


def pushes(tip: str, was: str | None = None) -> list[Update]:
    return [Update(MAIN, tip, was), Update(BRANCH, tip, was)]


def test_an_empty_remote_has_nothing(remote):
    assert remote.fetch(BRANCH) == NOTHING


def test_what_is_pushed_is_there_and_known_here_without_another_fetch(store, remote, hub):
    tip = store.write("a.txt", b"a\n")
    remote.push([*pushes(tip), Update("refs/ravi/runs/a.1", tip, None)])
    assert remote.seen(BRANCH) == There(tip, tip, None, None, {"a.1": tip})
    assert remote.fetch(BRANCH) == remote.seen(BRANCH)
    assert shell("rev-parse", BRANCH, cwd=hub) == tip
    store.fsck()


def test_what_was_taken_away_there_is_gone_here(store, remote):
    tip = store.write("a.txt", b"a\n")
    remote.push([*pushes(tip), Update("refs/ravi/runs/a.1", tip, None)])
    remote.push([Update("refs/ravi/runs/a.1", None, tip)])
    assert remote.fetch(BRANCH).runs == {}


def test_a_fetch_leaves_what_a_person_sees_of_git_alone(store, remote, hub):
    tip = store.write("a.txt", b"a\n")
    remote.push(pushes(tip))
    there, its = other(store, hub)
    there.refs.swap(MAIN, tip, None)
    later = there.write("b.txt", b"b\n")
    its.push(pushes(later, tip))
    before = store.git("for-each-ref", "refs/heads", "refs/ravi/main")
    assert remote.fetch(BRANCH).main == later
    assert store.git("for-each-ref", "refs/heads", "refs/ravi/main") == before
    assert store.git("rev-parse", "origin/main") == later
    assert not (store.root / ".git" / "FETCH_HEAD").exists()
    there.close()


def test_of_two_that_push_one_is_told_that_it_moved_and_nothing_of_it_is_there(store, remote, hub):
    tip = store.write("a.txt", b"a\n")
    remote.push(pushes(tip))
    there, its = other(store, hub)
    there.refs.swap(MAIN, tip, None)
    first, second = store.write("b.txt", b"b\n"), there.write("c.txt", b"c\n")
    its.push(pushes(second, tip))
    with pytest.raises(Moved, match="somebody else pushed"):
        remote.push([Update("refs/ravi/runs/a.1", tip, None), *pushes(first, tip)])
    assert remote.fetch(BRANCH) == There(second, second, None, None, {})
    there.close()


def test_a_leader_that_changed_makes_the_whole_push_fail(store, remote, hub):
    tip = store.write("a.txt", b"a\n")
    mine, theirs = (store.objects.put_blob(Lead(id, "host", n, "now").render()) for n, id in ((1, "a"), (2, "b")))
    store.objects.flush()
    remote.push([*pushes(tip), Update(LEADER, mine, None)])
    remote.push([Update(LEADER, theirs, mine)])
    later = store.write("b.txt", b"b\n")
    with pytest.raises(Moved):
        remote.push([*pushes(later, tip), Update(LEADER, mine, mine)])
    assert remote.fetch(BRANCH) == There(tip, tip, theirs, None, {})
    assert read_lead(store.objects, theirs) == Lead("b", "host", 2, "now")
    assert remote.leader(store.objects, timeout=9) == Lead("b", "host", 2, "now")


def test_hooks_of_the_person_do_not_run(store, remote, tmp_path):
    for name in ("pre-push", "reference-transaction", "post-checkout"):
        hook = store.root / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        hook.chmod(0o755)
    remote.push(pushes(store.write("a.txt", b"a\n")))
    remote.fetch(BRANCH)
    assert not (tmp_path / "ran").exists()


def test_the_persons_ssh_is_used(store, monkeypatch, tmp_path, hub):
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    store.git("remote", "add", "far", f"someone@far.example:{hub}")
    assert Remote(store.dirs, store.refs, "far").fetch(BRANCH) == NOTHING
    assert "someone@far.example" in (tmp_path / "asked").read_text()


def test_a_remote_that_does_not_answer_is_given_up(store, monkeypatch, tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexec sleep 600\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    store.git("remote", "add", "far", "someone@far.example:hub.git")
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer after 0\.3s"):
        Remote(store.dirs, store.refs, "far").fetch(BRANCH, timeout=0.3)
    assert time.monotonic() - begun < 5


def test_a_remote_that_is_away_is_told_without_its_password(store):
    store.git("remote", "add", "far", "https://ann:secret@127.0.0.1:1/hub.git")
    with pytest.raises(Unavailable) as told:
        Remote(store.dirs, store.refs, "far").fetch(BRANCH)
    assert "remote far (https://127.0.0.1:1/hub.git)" in str(told.value)
    assert "secret" not in str(told.value)


def test_a_remote_that_git_does_not_know(store):
    with pytest.raises(NotFound, match="git knows no remote `far`"):
        Remote(store.dirs, store.refs, "far").check()


def test_a_remote_that_declines_is_no_race(store, remote, hub):
    hook = hub / "hooks" / "update"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(Refused, match="hook declined"):
        remote.push(pushes(store.write("a.txt", b"a\n")))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"clone": "a"}', b"\xff"])
def test_a_leader_that_says_nothing_is_none(store, data):
    assert read_lead(store.objects, store.objects.put_blob(data)) is None
    assert read_lead(store.objects, None) is None


# -- who a clone is


def test_a_clone_keeps_its_id_also_when_it_is_moved(tmp_path):
    id = clone_id(str(tmp_path / "a"))
    assert clone_id(str(tmp_path / "a")) == id
    (tmp_path / "a").rename(tmp_path / "b")
    assert clone_id(str(tmp_path / "b")) == id


def test_a_copy_of_a_clone_is_another_one(tmp_path):
    id = clone_id(str(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = clone_id(str(tmp_path / "b"))
    assert copy != id == clone_id(str(tmp_path / "a"))
    assert clone_id(str(tmp_path / "b")) == copy


def test_one_that_was_put_back_in_its_place_is_the_same(tmp_path):
    id = clone_id(str(tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(tmp_path / "b", tmp_path / "a")
    assert clone_id(str(tmp_path / "a")) == id


def test_many_that_ask_at_once_are_one_clone(tmp_path):
    code = f"from ravi.store.remote import clone_id; print(clone_id({str(tmp_path / 'a')!r}))"
    asking = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    told = {one.communicate()[0].strip() for one in asking}
    assert told == {clone_id(str(tmp_path / "a"))}
