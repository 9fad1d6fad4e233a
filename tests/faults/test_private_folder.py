"""What ravi keeps for itself can be deleted or spoilt at any moment, even under a daemon: it costs time only."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Daemon, Editor, Promises, chance, check, size

pytestmark = pytest.mark.fault


def _garbage(folder: Path) -> None:
    """The index becomes something else, under whoever has it open."""
    (folder / "index.sqlite").write_bytes(os.urandom(100_000))


def _half(folder: Path) -> None:
    """The index loses its end."""
    os.truncate(folder / "index.sqlite", 5000)


def _log(folder: Path) -> None:
    """What was written last to the index is lost."""
    (folder / "index.sqlite-wal").unlink(missing_ok=True)


def _all(folder: Path) -> None:
    """Everything goes at once, as far as whoever looks for it there can tell."""
    gone = folder.with_name(".ravi-gone")
    folder.rename(gone)
    while gone.exists():  # a run that works in there may still write
        shutil.rmtree(gone, ignore_errors=True)


def _index(folder: Path) -> None:
    (folder / "index.sqlite").unlink(missing_ok=True)


HARMS: dict[str, Callable[[Path], object]] = {
    "all of it is deleted": _all,
    "the index is deleted": _index,
    "the index becomes garbage": _garbage,
    "the index loses its end": _half,
    "the index loses its log": _log,
}


@pytest.mark.parametrize("harm", HARMS)
def test_the_private_folder_may_be_spoilt_while_ravi_runs(harm: str, workspace, tmp_path, figures):
    promises = Promises()
    ledger = tmp_path / "ledger"
    ledger.touch()
    workspace.agent(
        "worker",
        'echo "$RAVI_RUN" >> "$LEDGER"; mkdir -p outputs; echo "by $RAVI_RUN" > outputs/out.txt; sleep 0.1\n',
        f"concurrency: 4\nenv:\n  LEDGER: {ledger}\n",
    )
    workspace.up()
    editor = Editor(workspace, promises, "editor")
    rng = chance("private", harm)
    rounds = size(4, 50)
    with Daemon(workspace) as daemon:
        daemon.until(daemon.is_leading)
        for number in range(rounds):
            for part in ("a", "b"):
                editor.new(f"{part}-{number}", "worker", "backoff: 100ms\nattempts: 9\n")
                promises.task(f"{part}-{number}", makes="out.txt")
            if rng.random() < 0.7:  # in the middle of a run, or anywhere
                daemon.until(lambda number=number: f"a-{number}." in ledger.read_text())
            HARMS[harm](workspace.root / ".ravi")
            word = f"typed-{number}"
            done = promises.call(workspace, "tasks", "new", word, "--id", word, "-a", "worker", holding=word)
            assert done.code == 0, done
            promises.task(word, makes="out.txt")
            daemon.until(lambda number=number: f"b-{number}." in ledger.read_text())
        assert daemon.stop() == 0, daemon.said()
        assert "Traceback" not in daemon.said(), daemon.said()
    found = check(workspace, promises, ledger=ledger)
    figures(rounds=rounds, lost=found.lost, doubled=found.doubled, half=found.half)
