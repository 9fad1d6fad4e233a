"""The git program, and the lay of repositories."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import Store, init, shell

from ravi.errors import NotFound, Refused, Unavailable
from ravi.store import git
from ravi.store.git import CatFile


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = init(tmp_path / "work")
    yield made
    made.close()


def test_a_repository_is_found_from_any_folder_in_it_without_git(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    below = store.root / "tasks" / "2026"
    below.mkdir(parents=True)
    root, dot = str(store.root), str(store.root / ".git")
    assert git.find(str(below)) == git.GitDirs(root, dot, dot)


def test_a_linked_worktree_has_its_own_git_dir_and_shares_the_rest(store: Store, tmp_path: Path) -> None:
    store.git("commit", "--quiet", "--allow-empty", "-m", "first")
    store.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
    dirs = git.find(str(tmp_path / "side"))
    assert dirs.work_tree == str(tmp_path / "side")
    assert os.path.samefile(dirs.git_dir, store.root / ".git" / "worktrees" / "side")
    assert os.path.samefile(dirs.common_dir, store.root / ".git")


def test_a_submodule_is_a_repository_of_its_own(store: Store, tmp_path: Path) -> None:
    inner = init(tmp_path / "inner")
    inner.git("commit", "--quiet", "--allow-empty", "-m", "first")
    inner.close()
    store.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "inner"), "sub")
    dirs = git.find(str(store.root / "sub"))
    assert dirs.git_dir == dirs.common_dir == str(store.root / ".git" / "modules" / "sub")


def test_where_there_is_no_repository_the_next_step_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no git repository") as told:
        git.find(str(tmp_path))
    assert "ravi init" in told.value.hint


def test_a_broken_repository_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(Unavailable, match="not a git repository"):
        git.find(str(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".git").write_text("something else\n")
    with pytest.raises(Unavailable, match="gitdir"):
        git.find(str(tmp_path / "b"))


def test_a_sha256_repository_is_refused(tmp_path: Path) -> None:
    shell("init", "--quiet", "--object-format=sha256", cwd=tmp_path)
    with pytest.raises(Refused, match="sha256"):
        git.find(str(tmp_path))


@pytest.mark.parametrize(
    "config",
    [
        "[extensions]\n\trefstorage = reftable\n",
        "[EXTENSIONS] refStorage = reftable\n",
        '[extensions]\n\trefStorage = "reftable"  # new\n',
        "[extensions]\n\trefStorage = reftable:///elsewhere\n",
    ],
)
def test_a_reftable_repository_is_refused(store: Store, config: str) -> None:
    with (store.root / ".git" / "config").open("a") as file:
        file.write(config)
    with pytest.raises(Refused, match="reftable"):
        git.find(str(store.root))


def test_settings_of_other_sections_are_not_taken_for_the_format(store: Store) -> None:
    with (store.root / ".git" / "config").open("a") as file:
        file.write('[extensions]\n\tworktreeConfig\n[remote "objectformat"]\n\tobjectFormat = sha256\n# [extensions]\n')
    git.find(str(store.root))


def test_git_sees_none_of_our_git_variables(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.bare")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    assert git.run(["rev-parse", "--is-bare-repository"], str(store.root)) == b"false\n"


def test_gits_own_words_are_told(store: Store) -> None:
    with pytest.raises(git.GitFailed, match="git rev-parse: fatal: "):
        git.run(["rev-parse", "nothing"], str(store.root))
    assert git.run(["rev-parse", "--quiet", "--verify", "nothing"], str(store.root), ok=(0, 1)) == b""
    assert git.call(["hash-object", "--stdin"], str(store.root), b"hello\n").out.strip() == (
        b"ce013625030ba8dba906f756967f9e9ca394464a"
    )


def test_without_git_or_without_the_folder_it_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="no such folder"):
        git.run(["status"], str(store.root / "gone"))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unavailable, match="not found on PATH"):
        git.run(["status"], str(store.root))
    with pytest.raises(Unavailable, match="not found on PATH"):
        store.objects.kind("0" * 40)


def test_nothing_that_the_repository_configures_is_started(store: Store, tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    spy = tmp_path / "spy"
    spy.write_text(f"#!/bin/sh\necho $0 $* >> {fired}\ncat\n")
    spy.chmod(0o755)
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("reference-transaction", "post-index-change", "pre-commit", "post-commit"):
        (hooks / hook).symlink_to(spy)
    store.write("a.md", b"a\n")
    for setting in ("core.fsmonitor", "diff.external", "core.pager", "core.editor", "filter.spy.clean", "gpg.program"):
        store.git("config", setting, str(spy))
    store.git("config", "core.hooksPath", str(hooks))
    store.git("config", "commit.gpgSign", "true")
    (store.root / ".gitattributes").write_text("* filter=spy diff=spy\n")
    store.write("b.md", b"b\n")
    git.run(["update-ref", "refs/heads/main", "refs/ravi/main"], str(store.root))
    git.run(["status"], str(store.root))
    git.run(["log", "--patch", "--no-textconv"], str(store.root))
    assert not fired.exists()


# -- the process that reads objects


@pytest.fixture
def reader(store: Store) -> Iterator[CatFile]:
    made = CatFile(store.dirs.common_dir)
    yield made
    made.close()


def _blob(store: Store, data: bytes) -> str:
    return store.git("hash-object", "-w", "--stdin", input=data)


def test_objects_are_read_in_the_order_asked_and_missing_ones_are_none(store: Store, reader: CatFile) -> None:
    oids = [_blob(store, b"%d" % n) for n in range(3)]
    asked = [oids[2], "0" * 40, oids[0], oids[2]]
    assert reader.contents(asked) == [("blob", b"2"), None, ("blob", b"0"), ("blob", b"2")]
    assert reader.sizes(asked) == [("blob", 1), None, ("blob", 1), ("blob", 1)]


def test_a_large_object_comes_whole(store: Store, reader: CatFile) -> None:
    data = os.urandom(1 << 20) * 20
    oid = _blob(store, data)
    assert reader.contents([oid, oid]) == [("blob", data), ("blob", data)]


def test_a_thousand_questions_do_not_fill_the_pipes(store: Store, reader: CatFile) -> None:
    oid = _blob(store, b"x" * 70_000)
    assert len(reader.contents([oid] * 1000)) == 1000


def test_a_killed_reader_is_started_again(store: Store, reader: CatFile) -> None:
    oid = _blob(store, b"hello")
    assert reader.contents([oid]) == [("blob", b"hello")]
    os.kill(reader._pid, signal.SIGKILL)
    assert reader.contents([oid]) == [("blob", b"hello")]


def test_objects_made_and_packed_meanwhile_are_found(store: Store, reader: CatFile) -> None:
    first = _blob(store, b"one")
    assert reader.contents([first])[0]
    second = _blob(store, b"two")
    tree = store.git("mktree", input=f"100644 blob {first}\ta\n100644 blob {second}\tb\n".encode())
    store.git("update-ref", "refs/heads/main", store.git("commit-tree", tree, "-m", "both"))
    for _ in range(3):
        store.git("repack", "-adq")
        store.git("prune-packed")
        assert reader.contents([second, first]) == [("blob", b"two"), ("blob", b"one")]


def test_a_repository_that_went_away_is_told_in_gits_words(store: Store, reader: CatFile) -> None:
    oid = _blob(store, b"hello")
    (store.root / ".git").rename(store.root / "moved")
    with pytest.raises(Unavailable, match="not a git repository"):
        reader.contents([oid])


def test_an_ended_reader_leaves_no_process_and_no_descriptor(store: Store, reader: CatFile) -> None:
    before = set(os.listdir("/dev/fd"))
    oid = _blob(store, b"hello")
    reader.start()
    pid = reader._pid
    assert reader.contents([oid])[0]
    reader.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert set(os.listdir("/dev/fd")) == before
