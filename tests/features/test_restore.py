"""A clone is a full backup: what it is made of goes on where the first one stopped."""

import subprocess

import pytest


@pytest.fixture
def lived_in(workspace):
    workspace.agent("writer", 'mkdir -p outputs; echo "by $RAVI_RUN" > outputs/out.txt; echo written\n')
    workspace.task("first", "writer", "labels: [a]\n")
    workspace.task("later", "ann")
    workspace.up()
    workspace.run("tasks", "comment", "later", "do not forget")
    workspace.run("events", "publish", "in.task", "--data", '{"title": "Once"}', "--id", "once")
    return workspace


@pytest.mark.parametrize("kind", ["--mirror", "--bare"])
def test_what_is_restored_from_a_clone_is_all_there_and_goes_on(kind, lived_in, tmp_path):
    backup = tmp_path / "backup.git"
    subprocess.run(["git", "clone", "-q", kind, lived_in.root, backup], check=True, env=lived_in.environ)
    known = (lived_in.json("tasks", "list", "--all"), lived_in.json("runs"), lived_in.json("log", "-n", "100"))

    restored = type(lived_in)(tmp_path / "restored", lived_in.environ)
    subprocess.run(["git", "clone", "-q", backup, restored.root], check=True, env=lived_in.environ)
    restored.run("init")
    assert restored.json("tasks", "list", "--all") == known[0]
    assert restored.json("runs") == known[1]
    assert restored.json("log", "-n", "100")[-len(known[2]) :] == known[2]

    restored.up()
    assert restored.json("runs") == known[1], "nothing that is done is done again"
    again = restored.run("events", "publish", "in.task", "--data", '{"title": "Once"}', "--id", "once", "--json").json
    assert again["id"] in {task["id"] for task in known[0]}, "what came in before does not come in a second time"
    restored.task("next", "writer")
    restored.up()
    assert restored.json("tasks", "show", "next")["status"] == "done"
    assert restored.is_clean()
