"""Names on NATS, and which event fits which pattern."""

import pytest

from ravi.core import subjects


def test_a_workspace_has_names_that_nats_takes():
    names = subjects.named("My Home, Sweet Home!")
    assert names.door("task") == "ravi.my-home-sweet-home.in.task"
    assert names.stream("IN") == "RAVI_MY_HOME_SWEET_HOME_IN"
    assert subjects.named("...").name == "ravi"
    assert subjects.named("a*b>c.d").event("task.created") == "ravi.a-b-c-d.event.task.created"


@pytest.mark.parametrize(
    ("kind", "pattern", "fits"),
    [
        ("task.created", "task.created", True),
        ("task.created", "task.*", True),
        ("task.created", "*.created", True),
        ("task.created", ">", True),
        ("task.created", "task.>", True),
        ("task", "task.>", False),
        ("task.created", "task", False),
        ("task.created.late", "task.*", False),
        ("task.created", "run.*", False),
    ],
)
def test_patterns_are_those_of_nats(kind, pattern, fits):
    assert subjects.matches(kind, pattern) is fits


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a b", "a*", ">", "é", "a" * 129])
def test_what_is_no_type_of_an_event(text):
    assert not subjects.is_kind(text)


def test_an_order_is_for_one_worker_whatever_the_agent_is_called():
    names = subjects.named("home")
    assert names.order("Night.Owl", "desk") == "ravi.home.run.night-owl.desk"
    assert names.worker("desk") == "ravi.home.worker.desk"
    assert names.bucket("workers") == "ravi_home_workers"
