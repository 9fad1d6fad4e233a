"""The control socket: where it is, who may ask, and what is answered."""

import json
import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from ravi.errors import Refused, Unavailable
from ravi.porcelain import control


@pytest.fixture
def daemon(workspace):
    """`ravi up` in the background, ended in order afterwards."""
    process = workspace.start("up")
    assert "watching" in process.stdout.readline()
    yield process
    process.terminate()
    process.communicate(timeout=30)


def where(workspace) -> str:
    """The path of the socket."""
    return workspace.read(".git/ravi/control")


def say(workspace, line: bytes) -> dict[str, object]:
    """What is answered to a line."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(where(workspace))
        client.sendall(line)
        return dict(json.loads(client.makefile().readline()))


def test_its_folder_and_itself_are_for_their_owner_alone(workspace, daemon):
    place = where(workspace)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(place)).st_mode) == 0o700


def test_every_answer_carries_the_version_and_a_fault_its_code(workspace, daemon):
    good = say(workspace, b'{"verb": "status"}\n')
    assert (good["pid"], good["version"]) == (daemon.pid, good["version"])
    unknown = say(workspace, b'{"verb": "sing"}\n')
    assert (unknown["code"], "does not know `sing`, only status, stop" in str(unknown["error"])) == ("usage", True)
    for nonsense in (b"hello\n", b"[]\n", b"{}\n", b'"verb"\n', b"\xff\n"):
        assert say(workspace, nonsense)["code"] == "usage"


def test_a_client_that_says_nothing_holds_up_nobody(workspace, daemon):
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as half:
        for one in (silent, half):
            one.connect(where(workspace))
        half.sendall(b'{"verb":')
        assert say(workspace, b'{"verb": "status"}\n')["running"] is True


def test_a_socket_that_somebody_removed_is_made_again(workspace, daemon, until):
    shutil.rmtree(os.path.dirname(where(workspace)))
    until(lambda: workspace.json("status")["daemon"]["answers"])


def test_where_it_is_gone_a_signal_does(workspace, daemon):
    os.unlink(workspace.root / ".git/ravi/control")
    told = workspace.json("daemon", "status")
    assert (told["running"], told["answers"]) == (True, False)
    assert workspace.json("daemon", "stop")["pid"] == daemon.pid


def test_nothing_is_left_of_it_after_an_end_in_order(workspace, daemon):
    place = where(workspace)
    workspace.run("daemon", "stop")
    assert not os.path.exists(place)
    assert not (workspace.root / ".git/ravi/control").exists()


def test_a_workspace_deep_down_has_one_too(environ, tmp_path, workspace):
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 8)
    shutil.copytree(workspace.root, deep)
    assert len(str(deep)) > 200
    deeper = type(workspace)(deep, environ)
    assert deeper.json("daemon", "start")["answers"] is True
    assert len(where(deeper)) <= control.LONGEST
    assert deeper.json("daemon", "stop")["stopped"] is True


def test_a_runtime_folder_that_is_no_good_is_left_for_one_that_is(tmp_path):
    root = str(tmp_path)
    own = f"/tmp/ravi-{os.getuid()}"
    open_to_all = tmp_path / "open"
    (open_to_all / "ravi").mkdir(parents=True)
    (open_to_all / "ravi").chmod(0o755)
    for runtime in ("", "relative", str(open_to_all), str(tmp_path / "missing"), "/" + "long" * 30):
        assert os.path.dirname(control.place(root, {"XDG_RUNTIME_DIR": runtime})) == own
    good = Path("/tmp", f"rt{os.getpid()}")
    good.mkdir(mode=0o700)
    try:
        assert control.place(root, {"XDG_RUNTIME_DIR": str(good)}).startswith(f"{good}/ravi/")
    finally:
        shutil.rmtree(good)


def test_two_workspaces_have_two_sockets(tmp_path):
    assert control.place(str(tmp_path / "a"), {}) != control.place(str(tmp_path / "b"), {})


def test_nobody_there_is_told_in_words(tmp_path):
    with pytest.raises(Unavailable, match="has no control socket"):
        control.ask(str(tmp_path), "status")
    (tmp_path / "control").write_text(str(tmp_path / "gone"))
    with pytest.raises(Unavailable, match="nobody answers on the control socket"):
        control.ask(str(tmp_path), "status")


def test_a_copied_workspace_does_not_ask_the_daemon_of_the_original(workspace, daemon, tmp_path):
    copy = tmp_path / "copy/.git/ravi"
    copy.mkdir(parents=True)
    (copy / "control").write_text(where(workspace))
    with pytest.raises(Refused, match=f"that of another workspace, {workspace.root}"):
        control.ask(str(copy), "stop")
    assert control.ask(str(workspace.root / ".git/ravi"), "status")["stopping"] == ""
