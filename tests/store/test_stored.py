"""Objects read from the files themselves: whatever git would say, or nothing at all."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import AUTHOR, Store, init

from ravi.store import stored
from ravi.store.git import CatFile
from ravi.store.stored import Stored


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A history of texts that resemble each other, of noise, of a tag, of one large file."""
    made = init(tmp_path / "work")
    dice = random.Random(7)
    text = [f"line {n} {dice.random()}\n" for n in range(400)]
    tree, tip = made.objects.apply(None, {"large.bin": dice.randbytes(200_000) + bytes(200_000), "empty": b""}), ""
    for n in range(30):
        text[dice.randrange(400)] = f"changed {n}\n"
        text.insert(dice.randrange(400), f"new {n} {dice.random()}\n")
        for path, data in ((f"notes/{n % 3}.md", "".join(text).encode()), (f"tasks/{n}/TASK.md", dice.randbytes(300))):
            tree = made.objects.apply(tree, {path: data})
            tip = made.objects.put_commit(tree, [tip] if tip else [], AUTHOR, AUTHOR, path)
    made.objects.flush()
    made.objects.release()
    made.refs.create("refs/ravi/main", tip)
    made.git("tag", "-a", "-m", "a tag", "v1", "refs/ravi/main")
    yield made
    made.close()


def _all(store: Store) -> list[str]:
    return [line.split()[0] for line in store.git("rev-list", "--objects", "--all").split("\n")]


def _read(store: Store, oids: list[str]) -> int:
    """How many are read; each of them is what git says it is."""
    ours, git = Stored(store.dirs.common_dir), CatFile(store.dirs.common_dir)
    found = 0
    for oid, answer in zip(oids, git.contents(oids), strict=True):
        mine = ours.read(oid)
        assert mine in (None, answer)
        assert ours.kind(oid) in (None, answer and answer[0])
        assert (ours.kind(oid) is None) == (mine is None)
        found += mine is not None
    git.close()
    ours.close()
    return found


def test_our_own_packs_are_read_whole(store: Store) -> None:
    oids = _all(store)
    assert _read(store, oids) == len(oids)


@pytest.mark.parametrize("how", [["--delta-base-offset"], []], ids=["base by offset", "base by name"])
@pytest.mark.parametrize("is_large", [False, True], ids=["index in memory", "index on disk"])
def test_packs_of_git_are_read_as_far_as_their_chains_are_short(
    store: Store, how: list[str], is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_large:
        monkeypatch.setattr(stored, "_WHOLE", 0)
    oids = _all(store)
    made = "\n".join(oids).encode() + b"\n"
    folder = Path(store.objects.folder)
    old = list(folder.iterdir())
    for depth, least in ((8, len(oids)), (50, 10)):
        before = set(folder.iterdir())
        name = store.git(
            "pack-objects",
            "-q",
            f"--depth={depth}",
            "--window=60",
            "--no-reuse-delta",
            *how,
            str(folder / "pack"),
            input=made,
        )
        assert "chain length = 5" in store.git("verify-pack", "-v", str(folder / f"pack-{name}.idx"))
        for path in before:
            path.unlink()
        assert least <= _read(store, oids) <= len(oids)
    assert old


def test_offsets_beyond_two_gigabytes_are_understood(store: Store) -> None:
    oids = _all(store)
    store.git("repack", "-adq")
    (pack,) = (path for path in Path(store.objects.folder).iterdir() if path.suffix == ".pack")
    idx = pack.with_suffix(".idx")
    idx.unlink()
    store.git("index-pack", "--index-version=2,0x40", "-o", str(idx), str(pack))  # as if the pack were that large
    assert _read(store, oids) == len(oids)


def test_loose_objects_are_read(store: Store) -> None:
    oids = [store.git("hash-object", "-w", "--stdin", input=data) for data in (b"", b"x", b"y" * 100_000)]
    assert _read(store, oids) == 3
    loose = store.root / ".git" / "objects" / oids[1][:2] / oids[1][2:]
    loose.chmod(0o644)
    loose.write_bytes(b"nonsense")
    assert Stored(store.dirs.common_dir).read(oids[1]) is None


def test_what_is_not_there_is_left_to_git(store: Store) -> None:
    ours = Stored(store.dirs.common_dir)
    assert ours.read("1" * 40) is None
    assert ours.kind("1" * 40) is None


def test_packs_come_and_go_under_a_reader(store: Store) -> None:
    ours = Stored(store.dirs.common_dir)
    oids = _all(store)
    assert all(ours.read(oid) for oid in oids)
    before = len(os.listdir("/dev/fd"))
    store.git("repack", "-adq", "--depth=5")
    late = store.write("late", b"x")
    assert ours.read(late)
    assert all(ours.read(oid) for oid in oids)
    assert len(ours._packs) == 2
    assert len(os.listdir("/dev/fd")) <= before + 4  # the new packs, and the lock of the writer
    ours.close()


def test_an_object_in_a_pack_that_was_removed_is_not_said_to_be_there(store: Store) -> None:
    ours = Stored(store.dirs.common_dir)
    oid = store.objects.put_blob(b"of no use")
    store.objects.flush()
    store.objects.release()
    assert ours.kind(oid) == "blob"
    store.git("gc", "--quiet", "--prune=now")
    assert ours.kind(oid) is None


def test_damaged_packs_are_left_to_git(store: Store) -> None:
    store.git("repack", "-adq")
    oids = _all(store)
    folder = Path(store.objects.folder)
    (pack,) = (path for path in folder.iterdir() if path.suffix == ".pack")
    whole = {path: path.read_bytes() for path in (pack, pack.with_suffix(".idx"))}
    dice = random.Random(5)
    for path, data in whole.items():
        path.chmod(0o644)
        for _ in range(25):
            hurt = bytearray(data[: dice.randrange(len(data))] if dice.random() < 0.3 else data)
            for _ in range(3):
                hurt[dice.randrange(len(hurt))] ^= 1 << dice.randrange(8)
            path.write_bytes(hurt)
            ours = Stored(store.dirs.common_dir)
            for oid in oids:
                ours.read(oid)
                ours.kind(oid)
            ours.close()
        path.write_bytes(data)
    assert _read(store, oids) > 0


def test_little_is_read_without_git_and_much_with_it(store: Store) -> None:
    again = store.again()
    tip = again.refs.read("refs/ravi/main")
    assert tip is not None
    assert again.objects.read(tip, "notes/1.md")
    assert again.objects._git._pid == 0
    assert len(list(again.objects.walk(tip))) == 35
    assert again.objects._git._pid != 0
    again.close()
