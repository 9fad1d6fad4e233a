"""The daemon as a service: the files, the calls to the manager, and what systemd is told."""

import json
import os
import plistlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

RUN = [sys.executable, "-P", "-m", "ravi"]


@pytest.fixture
def environ(environ, tmp_path):
    """A person with settings of their own, and a systemctl that writes down what it is asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("systemctl", "launchctl"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/asked\n[ ! -e {tmp_path}/refuse ]\n')
        (tools / name).chmod(0o755)
    environ.pop("XDG_CONFIG_HOME", None)
    return {**environ, "PATH": f"{tools}:{environ['PATH']}"}


@pytest.fixture
def supervised(workspace, tmp_path):
    """`ravi daemon run` below a manager that starts it again as the unit says."""
    script = 'while :; do "$@"; code=$?; echo "exit $code"; [ $code = 75 ] || exit $code; done'
    words = [*RUN, "--workspace", str(workspace.root), "daemon", "run"]
    manager = subprocess.Popen(
        ["sh", "-c", script, "sh", *words], cwd="/", env=workspace.environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    yield manager
    workspace.run("daemon", "stop", "--force")
    manager.communicate(timeout=30)


def asked(tmp_path: Path) -> list[str]:
    place = tmp_path / "asked"
    return place.read_text().splitlines() if place.exists() else []


def test_print_shows_the_unit_and_writes_nothing(workspace, tmp_path):
    text = workspace.run("daemon", "install", "--print", "--manager", "systemd").out
    assert f'ExecStart="{sys.executable}" "-P" "-m" "ravi" "--workspace" "{workspace.root}" "daemon" "run"\n' in text
    for line in ("Type=notify", "Restart=on-failure", "KillMode=mixed", "WantedBy=default.target"):
        assert f"\n{line}\n" in text
    assert f"\nWorkingDirectory={workspace.root}\n" in text
    assert asked(tmp_path) == []
    assert not (tmp_path / "home/.config").exists()


def test_print_shows_the_plist(workspace):
    text = workspace.run("daemon", "install", "--print", "--manager", "launchd").out
    told = plistlib.loads(text.encode())
    assert told["ProgramArguments"] == [*RUN, "--workspace", str(workspace.root), "daemon", "run"]
    assert (told["KeepAlive"], told["RunAtLoad"]) == ({"SuccessfulExit": False}, True)


@pytest.mark.skipif(not os.path.exists("/usr/bin/systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_understands_the_unit_of_a_workspace_with_any_name(environ, tmp_path, workspace):
    odd = workspace.root.rename(tmp_path / 'a %h $HOME "quoted" \\ é')
    text = type(workspace)(odd, environ).run("daemon", "install", "--print", "--manager", "systemd").out
    unit = tmp_path / "ravi-odd.service"
    unit.write_text(text)
    runtime = tmp_path / "r"
    runtime.mkdir()
    done = subprocess.run(
        ["/usr/bin/systemd-analyze", "verify", "--user", str(unit)],
        capture_output=True, text=True, env={**environ, "XDG_RUNTIME_DIR": str(runtime)},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_install_writes_the_unit_and_has_it_started_and_uninstall_undoes_it(workspace, tmp_path):
    told = workspace.json("daemon", "install", "--manager", "systemd")
    name = told["name"]
    file = tmp_path / "home/.config/systemd/user" / name
    assert (told["file"], told["installed"], told["started"]) == (str(file), True, True)
    assert file.read_text() == told["text"]
    workspace.run("daemon", "uninstall", "--manager", "systemd")
    assert not file.exists()
    assert asked(tmp_path) == [
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {name}",
        f"systemctl --user disable --now {name}",
        "systemctl --user daemon-reload",
    ]


def test_a_launchd_agent_is_installed_and_removed(workspace, tmp_path):
    told = workspace.json("daemon", "install", "--manager", "launchd")
    file = tmp_path / "home/Library/LaunchAgents" / f"{told['name']}.plist"
    assert plistlib.loads(file.read_bytes())["Label"] == told["name"]
    workspace.run("daemon", "uninstall", "--manager", "launchd")
    assert not file.exists()
    label = f"gui/{os.getuid()}/{told['name']}"
    assert asked(tmp_path) == [
        f"launchctl bootout {label}",
        f"launchctl enable {label}",
        f"launchctl bootstrap gui/{os.getuid()} {file}",
        f"launchctl bootout {label}",
    ]


def test_uninstall_where_nothing_is_installed_is_no_fault(workspace, tmp_path):
    assert "is not installed" in workspace.run("daemon", "uninstall", "--manager", "systemd").out
    assert asked(tmp_path) == []


def test_a_manager_that_refuses_is_told_with_what_is_there_already(workspace, tmp_path):
    (tmp_path / "refuse").touch()
    told = json.loads(workspace.run("daemon", "install", "--manager", "systemd", "--json", code=7).err)
    assert "is written, but `systemctl --user daemon-reload` says: exit 1" in told["error"]


def test_install_while_it_runs_starts_no_second_one(workspace, tmp_path):
    pid = workspace.json("daemon", "start")["pid"]
    said = workspace.run("daemon", "install", "--manager", "systemd").out
    assert f"led by process {pid} " in said
    assert not any("--now" in line for line in asked(tmp_path))
    workspace.run("daemon", "stop")


def test_systemd_is_told_of_readiness_of_life_and_of_the_end(workspace, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        place = f"/tmp/ravi-notify-{os.getpid()}"
        systemd.bind(place)
        systemd.settimeout(30)
        env = {**workspace.environ, "NOTIFY_SOCKET": place, "WATCHDOG_USEC": "20000"}
        words = [*RUN, "-C", str(workspace.root), "daemon", "run"]
        process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            heard = [systemd.recv(1000) for _ in range(3)]
            assert min(heard).startswith(b"READY=1\nSTATUS=ravi ")
            assert sorted(heard)[1:] == [b"WATCHDOG=1"] * 2
            process.send_signal(signal.SIGTERM)
            while heard[-1] != b"STOPPING=1":
                heard.append(systemd.recv(1000))
            assert process.wait(30) == 0
        finally:
            os.unlink(place)
            process.kill()
            process.communicate()


def test_a_service_that_finds_another_leader_says_so_to_both_and_is_not_tried_again(workspace):
    pid = workspace.json("daemon", "start")["pid"]
    done = workspace.run("daemon", "run", code=5)
    assert f"process {pid} " in done.err
    assert f"process {pid} on" in workspace.run("daemon", "logs", "-n", "1").out
    workspace.run("daemon", "stop")


def test_restart_leaves_a_service_to_its_manager(workspace, supervised, until):
    first = until(lambda: (told := workspace.json("daemon", "status"))["answers"] and told)
    assert first["kind"] == "service"
    second = workspace.json("daemon", "restart")
    assert (second["kind"], second["pid"] != first["pid"]) == ("service", True)
    assert supervised.stdout.readline() == "exit 75\n"
    workspace.run("daemon", "stop")
    assert supervised.stdout.readline() == "exit 0\n"
    assert supervised.wait(20) == 0
