"""`ravi events` and the doors, without NATS: the git log is the stream, and a door is a call."""

import json

import pytest


def publish(workspace, subject, data, *words, code=0):
    return workspace.run("events", "publish", subject, "--data", json.dumps(data), *words, "--json", code=code)


@pytest.fixture
def lived_in(workspace):
    workspace.agent("writer", "echo written\n")
    workspace.task("greet", "writer")
    workspace.up()
    return workspace


def test_what_happened_is_told_as_cloudevents(lived_in):
    told = lived_in.json("events")
    assert [(event["type"], event["subject"]) for event in told][-4:] == [
        ("agent.changed", "writer"),
        ("task.created", "greet"),
        ("run.completed", "greet.1"),
        ("task.closed", "greet"),
    ]
    for event in told:
        assert event["specversion"] == "1.0"
        assert event["source"] == "ravi:ravi"
        assert len(event["ravicommit"]) == 40
    assert lived_in.json("events") == told, "ids come from causes, so they are the same each time"


def test_events_are_chosen_by_type_and_by_what_they_are_about(lived_in):
    assert [event["type"] for event in lived_in.json("events", "list", "-t", "task.*")] == [
        "task.created",
        "task.closed",
    ]
    assert {event["subject"] for event in lived_in.json("events", "list", "-s", "greet")} == {"greet", "greet.1"}
    assert [event["type"] for event in lived_in.json("events", "list", "-n", "1")] == ["task.closed"]


def test_events_are_told_as_they_are_recorded(lived_in):
    with lived_in.start("events", "tail", "--json", "-t", "task.>", "--since", "HEAD~1") as tail:
        try:
            assert tail.stdout is not None
            first = json.loads(tail.stdout.readline())
            assert (first["type"], first["subject"]) == ("task.closed", "greet")
            lived_in.run("tasks", "new", "Another", "--id", "another")
            lived_in.run("tasks", "comment", "another", "hello")
            assert [json.loads(tail.stdout.readline())["type"] for _ in range(2)] == ["task.created", "task.commented"]
        finally:
            tail.terminate()


def test_a_task_comes_in_at_its_door_once(workspace):
    workspace.up()
    told = {"title": "Call Bia", "assignee": "ann", "labels": ["home"], "body": "About the rent."}
    first = publish(workspace, "in.task", told, "--id", "m-1").json
    again = publish(workspace, "in.task", told, "--id", "m-1").json
    assert first == again
    (task,) = workspace.json("tasks", "list")
    assert (task["id"], task["title"], task["assignee"], task["labels"]) == (first["id"], "Call Bia", "ann", ["home"])
    assert "About the rent." in workspace.read(task["path"])
    assert publish(workspace, "in.task", told, "--id", "m-2").json["id"] != first["id"]
    assert workspace.is_clean()


def test_an_envelope_has_the_last_word_on_its_id(workspace):
    envelope = {"specversion": "1.0", "id": "e-9", "type": "ask", "source": "test", "data": {"title": "Once"}}
    assert publish(workspace, "in.task", envelope).json == publish(workspace, "in.task", envelope, "--id", "x").json


def test_a_comment_comes_in_at_its_door_once(lived_in):
    for _ in range(2):
        told = publish(lived_in, "in.comment", {"task": "greet", "text": "well done"}, "--id", "c-1").json
        assert told["task"] == "greet"
    assert [c["text"] for c in lived_in.json("tasks", "show", "greet")["comments"]] == ["well done"]


def test_anything_may_come_in_as_an_event(workspace):
    workspace.up()
    envelope = {"specversion": "1.0", "id": "b-1", "type": "build.done", "source": "ci", "subject": "main", "data": [1]}
    told = publish(workspace, "in.event", envelope).json
    assert publish(workspace, "in.event", envelope).json == told
    publish(workspace, "in.event", {"speed": 7})
    events = workspace.json("events", "list", "-t", "build.*", "-t", "external")
    assert [(e["type"], e["subject"], e["source"], e["data"]) for e in events] == [
        ("build.done", "main", "ravi:ravi/ci", {"data": [1]}),
        ("external", "", "ravi:ravi/outside", {"speed": 7}),
    ]
    assert workspace.is_clean()


@pytest.mark.parametrize(
    ("door", "data", "code", "words"),
    [
        ("in.task", {}, 1, "title"),
        ("in.task", {"title": " "}, 1, "title"),
        ("in.task", {"title": 7}, 1, "title"),
        ("in.task", {"title": "x", "body": []}, 1, "body"),
        ("in.task", {"title": "x", "parent": "nobody"}, 4, "nobody"),
        ("in.task", {"title": "x", "status": "sleeping"}, 1, "status"),
        ("in.task", [], 1, "object"),
        ("in.comment", {"task": "nobody", "text": "x"}, 4, "nobody"),
        ("in.comment", {"task": "nobody"}, 1, "text"),
        ("in.event", {"specversion": "1.0", "id": "1", "type": "a b", "source": "s"}, 1, "a b"),
        ("in.event", {"specversion": "1.0", "id": "1", "type": "task.closed", "source": "s"}, 1, "ravi's own"),
        ("in.prompt", {"session": "s", "text": "x"}, 5, "not yet"),
        ("in.approval", {"id": "a", "answer": "yes"}, 5, "not yet"),
        ("in.window", {}, 4, "no such door"),
        ("somewhere else", {}, 2, "no subject"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_words(workspace, door, data, code, words):
    before = workspace.git("rev-parse", "refs/ravi/main")
    told = publish(workspace, door, data, code=code)
    assert words in json.loads(told.err)["error"]
    assert workspace.git("rev-parse", "refs/ravi/main") == before


def test_what_is_no_json_is_told(workspace):
    told = workspace.run("events", "publish", "in.task", "--data", "{title: x}", code=2)
    assert "not JSON" in told.err


def test_what_needs_nats_says_so_where_it_is_off(workspace):
    for words in (("stream",), ("replay", "--since", "HEAD"), ("publish", "event.x", "--data", "{}")):
        told = workspace.run("events", *words, code=7)
        assert "nats: off" in told.err
