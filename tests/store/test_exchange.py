"""Files are exchanged, never written over: whatever somebody saves meanwhile stays."""

import os
import stat
import sys
from pathlib import Path

import pytest

from ravi.store import exchange
from ravi.store.exchange import Folders, Outcome, look
from ravi.store.objects import EXECUTABLE, FILE, FOLDER, LINK

OURS, OLD, THEIRS, LATER = b"ours\n", b"old\n", b"theirs\n", b"theirs, later\n"


@pytest.fixture(params=["exchange", "steps"])
def folder(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system that exchanges names, and on one that does not."""
    if request.param == "steps":
        monkeypatch.setattr(exchange, "_system", exchange._Unsupported)
    return tmp_path


def replace(root: Path, on_look=lambda data: None) -> Outcome:
    """Put OURS in the place of OLD; `on_look` is what somebody does just when we look at what came out."""
    with Folders(str(root)) as folders:
        fd, name = folders.at("f")
        exchange.write_temporary(fd, ".ravi-1", FILE, OURS, None, durable=False)

        def expected(found: exchange.Lying) -> bool:
            on_look(found.data)
            return found.data == OLD

        return exchange.replace(fd, name, ".ravi-1", lambda found: found.data == OURS, expected)


def save(path: Path, data: bytes) -> None:
    beside = path.with_name("beside")
    beside.write_bytes(data)
    beside.rename(path)


def texts(root: Path) -> set[bytes]:
    return {path.read_bytes() for path in root.iterdir()}


def test_a_file_that_is_as_expected_is_replaced(folder):
    (folder / "f").write_bytes(OLD)
    outcome = replace(folder)
    assert outcome.done
    assert (folder / "f").read_bytes() == OURS
    assert outcome.left == ("old" if sys.platform == "linux" else "unknown")
    assert (folder / ".ravi-1").read_bytes() == OLD


def test_a_file_that_is_not_as_expected_stays(folder):
    (folder / "f").write_bytes(THEIRS)
    inode = os.stat(folder / "f").st_ino
    assert not replace(folder).done
    assert (folder / "f").read_bytes() == THEIRS
    assert os.stat(folder / "f").st_ino == inode


def test_a_deleted_file_is_not_brought_back(folder):
    assert replace(folder) == Outcome(done=False)
    assert os.listdir(folder) == []


def test_a_save_over_ours_wins(folder):
    (folder / "f").write_bytes(OLD)
    assert replace(folder, lambda _: save(folder / "f", LATER)).done
    assert (folder / "f").read_bytes() == LATER


def test_of_two_saves_in_our_way_the_later_has_the_place_and_the_first_is_left(folder):
    (folder / "f").write_bytes(THEIRS)
    outcome = replace(folder, lambda _: save(folder / "f", LATER))
    assert not outcome.done
    assert outcome.left == "unknown"
    assert {THEIRS, LATER} <= texts(folder)
    assert (folder / "f").read_bytes() == LATER


def test_a_deletion_in_our_way_does_not_cost_a_save(folder):
    (folder / "f").write_bytes(THEIRS)
    assert not replace(folder, lambda _: (folder / "f").unlink()).done
    assert THEIRS in texts(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell who writes")
@pytest.mark.parametrize("mode", ["r+b", "ab"])
def test_a_file_that_somebody_is_about_to_write_goes_back_to_its_name(folder, mode):
    (folder / "f").write_bytes(OLD)
    with open(folder / "f", mode) as editor:
        assert not replace(folder).done
        editor.write(THEIRS)
    assert THEIRS in (folder / "f").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell who writes")
def test_who_reads_is_not_taken_for_who_writes(tmp_path):
    (tmp_path / "f").write_bytes(OLD)
    with open(tmp_path / "f", "rb") as reader:
        assert exchange.is_being_written(reader.fileno()) is False
        with open(tmp_path / "f", "ab"):
            assert exchange.is_being_written(reader.fileno()) is True
        assert exchange.is_being_written(reader.fileno()) is False
        assert replace(tmp_path).done
        assert reader.read() == OLD  # one whole version


def test_a_new_file_takes_no_name_that_is_taken(folder):
    with Folders(str(folder)) as folders:
        fd, name = folders.at("f")
        exchange.write_temporary(fd, ".ravi-1", FILE, OURS, None, durable=False)
        assert exchange.create(fd, name, ".ravi-1", lambda found: found.data == OURS) == Outcome(done=True)
        exchange.write_temporary(fd, ".ravi-1", FILE, THEIRS, None, durable=False)
        assert not exchange.create(fd, name, ".ravi-1", lambda found: found.data == THEIRS).done
    assert texts(folder) == {OURS}


def test_only_what_is_expected_is_removed(folder):
    with Folders(str(folder)) as folders:
        fd, name = folders.at("f")
        assert exchange.remove(fd, name, ".ravi-1", lambda _: True).done  # gone already
        (folder / "f").write_bytes(THEIRS)
        assert not exchange.remove(fd, name, ".ravi-1", lambda found: found.data == OLD).done
        assert (folder / "f").read_bytes() == THEIRS
        save(folder / "f", OLD)
        assert exchange.remove(fd, name, ".ravi-1", lambda found: found.data == OLD).done
        assert not (folder / "f").exists()


def test_rights_of_the_file_are_kept_and_the_x_bit_is_gits(tmp_path):
    old = tmp_path / "old"
    old.write_bytes(b"")
    old.chmod(0o640)
    like = old.stat()
    with Folders(str(tmp_path)) as folders:
        fd, _ = folders.at("x")
        for name, mode, rights in (("a", FILE, 0o640), ("b", EXECUTABLE, 0o750)):
            exchange.write_temporary(fd, name, mode, OURS, like, durable=True)
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == rights
            assert look(fd, name).mode == mode


def test_nothing_but_plain_files_is_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "below").mkdir()
    (tmp_path / "large").write_bytes(b"x" * 100)
    with Folders(str(tmp_path)) as folders:
        fd, _ = folders.at("x")
        assert look(fd, "fifo").mode == 0
        assert look(fd, "link")[:2] == (LINK, b"/etc/passwd")
        assert look(fd, "below").mode == FOLDER
        assert look(fd, "none") is None
        assert look(fd, "large", limit=99).data == b""


def test_no_folder_is_reached_through_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in/link").symlink_to(tmp_path / "outside")
    (root / "in/file").write_bytes(b"")
    with Folders(str(root)) as folders:
        for path in ("in/link/f", "in/file/f"):
            with pytest.raises(NotADirectoryError):
                folders.at(path, make=True)
        with pytest.raises(FileNotFoundError):
            folders.at("in/none/f")
        fd, name = folders.at("in/a/b/f", make=True)
        exchange.write_temporary(fd, name, FILE, OURS, None, durable=False)
        folders.prune("in/a/b/f")  # not empty, so it stays
        (root / "in/a/b/f").unlink()
        folders.prune("in/a/b/f")
    assert not (root / "in/a").exists()
    assert (root / "in").exists()


def test_many_folders_do_not_use_up_descriptors(tmp_path):
    before = len(os.listdir("/dev/fd"))
    with Folders(str(tmp_path)) as folders:
        for n in range(300):
            folders.at(f"a/{n}/b/f", make=True)
        assert len(os.listdir("/dev/fd")) < before + 80
    assert len(os.listdir("/dev/fd")) == before


def test_this_machine_is_asked_whether_it_exchanges(tmp_path, monkeypatch):
    exchange.can_exchange(str(tmp_path))
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(exchange, "_system", exchange._Unsupported)
    assert not exchange.can_exchange(str(tmp_path))
