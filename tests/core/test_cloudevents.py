"""Envelopes: told outside as CloudEvents, read from outside with suspicion."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravi.core import cloudevents
from ravi.core.event import Event
from ravi.errors import Malformed


def test_an_event_is_told_as_a_cloudevent():
    event = Event("e1", "task.created", "login", time="2026-11-20T10:00:00.000Z", commit="c" * 40, data={"path": "p"})
    assert json.loads(cloudevents.render(event, "home")) == {
        "specversion": "1.0",
        "id": "e1",
        "type": "task.created",
        "source": "ravi:home",
        "subject": "login",
        "time": "2026-11-20T10:00:00.000Z",
        "datacontenttype": "application/json",
        "data": {"path": "p"},
        "ravicommit": "c" * 40,
    }


def test_what_is_told_can_be_read_again():
    event = Event("e1", "run.dead", "a.1", data={"reason": "\ud800 odd"})
    data = cloudevents.render(event, "w")
    data.decode()
    read = cloudevents.parse(data, "here")
    assert (read.id, read.type, read.subject, read.data) == ("e1", "run.dead", "a.1", {"reason": "\ud800 odd"})


def test_a_bare_object_is_all_data():
    assert cloudevents.parse(b'{"title": "x"}', "here") == cloudevents.Envelope("", "", "", "", "", {"title": "x"})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"specversion": "0.3", "id": "a"}', "0.3"),
        (b'{"specversion": "1.0", "type": "t", "source": "s"}', "id"),
        (b'{"specversion": "1.0", "id": 7, "type": "t", "source": "s"}', "id"),
        (b'{"specversion": "1.0", "id": "a", "type": "t", "source": "s", "data_base64": "eA=="}', "data_base64"),
        (b'{"a": "' + b"x" * cloudevents.LIMIT + b'"}', "too many"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(data, words):
    with pytest.raises(Malformed) as fault:
        cloudevents.parse(data, "ravi.w.in.task")
    assert "ravi.w.in.task" in str(fault.value)
    assert words in str(fault.value)


@given(st.binary(max_size=200))
def test_nothing_that_comes_in_breaks_the_reader(data):
    with contextlib.suppress(Malformed):
        cloudevents.parse(data, "here")
