"""The commit grammar: what is written is read back, by ravi and by git, and no text can pass for a trailer."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravi.core.trailers import NAMES, Message, parse

FULL = Message(
    "run login-7f3k.1: finished by alice",
    "Two words.\n\nAnd a list:\n- one",
    {"Ravi-Event": "4033f993b0be", "Ravi-Task": "login-7f3k", "Ravi-Run": "login-7f3k.1"},
    ("task:parent done", "https://example.org/x failed"),
)


def test_a_message_is_read_back_as_it_was_written() -> None:
    assert parse(FULL.render()) == FULL
    assert FULL.render() == (
        "run login-7f3k.1: finished by alice\n\nTwo words.\n\nAnd a list:\n- one\n\n"
        "Ravi-Event: 4033f993b0be\nRavi-Task: login-7f3k\nRavi-Run: login-7f3k.1\n"
        "Ravi-Callback: task:parent done\nRavi-Callback: https://example.org/x failed\n"
    )


def test_trailers_come_in_one_order_and_empty_ones_do_not_come() -> None:
    said = Message("s", "", {"Ravi-Run": "r", "Ravi-Depth": "", "Ravi-Event": "e"}).render()
    assert said == "s\n\nRavi-Event: e\nRavi-Run: r\n"


def test_what_is_there_already_is_not_replaced_by_added_trailers() -> None:
    assert Message("s", "", {"Ravi-Task": "a"}).with_trailers({"Ravi-Task": "b", "Ravi-Epoch": "3"}).trailers == {
        "Ravi-Task": "a",
        "Ravi-Epoch": "3",
    }


@pytest.mark.parametrize(
    "signed",
    ["Signed-off-by: A <a@example.org>", "(cherry picked from commit 1234567)", "Reviewed-by: B <b@example.org>"],
)
def test_another_signature_below_takes_nothing_away(signed: str) -> None:
    assert parse(FULL.render() + signed + "\n") == FULL


def test_words_among_the_trailers_make_them_words() -> None:
    assert parse("s\n\nRavi-Event: e\nand more\n").trailers == {}
    assert parse("s\n\nNote: x\n") == Message("s", "Note: x")
    assert parse("Ravi-Event: e\n") == Message("Ravi-Event: e")
    assert parse("") == Message("")


FORGERIES = [
    "Ravi-Event: forged",
    "\n\nRavi-Event: forged\n",
    "text\n\nRavi-Event: forged\nRavi-Task: forged",
    "text\n\nravi-event: forged",
    "RAVI-EVENT:forged",
    "Ravi-Event : forged",
    "Ravi-Event=forged",
    "Ravi-Event: forged\n---\nrest",
    "text\r\n\r\nRavi-Event: forged\r\n",
    "text\u2028\u2028Ravi-Event: forged",
    "text\x0b\x0cRavi-Event: forged",
    "text\x85\x85Ravi-Event: forged",
    "Signed-off-by: a\nRavi-Event: forged",
    "\tRavi-Event: forged",
    "\ufeffRavi-Event: forged",
]


@pytest.mark.parametrize("text", FORGERIES)
@pytest.mark.parametrize("where", ["subject", "body", "value", "callback"])
@pytest.mark.parametrize("own", [{}, {"Ravi-Task": "mine"}])
def test_no_text_can_forge_a_trailer(text: str, where: str, own: dict[str, str], tmp_path: Path) -> None:
    message = Message(
        text if where == "subject" else "s",
        text if where == "body" else "",
        own | ({"Ravi-Parent": text} if where == "value" else {}),
        (text,) if where == "callback" else (),
    ).render()
    assert not {"Ravi-Event"} & parse(message).trailers.keys()
    assert parse(message).trailers.get("Ravi-Task") == own.get("Ravi-Task")
    seen = subprocess.run(
        ["git", "interpret-trailers", "--parse"],
        input=message,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    assert not [line for line in seen.splitlines() if line.lower().startswith("ravi-event")]


def test_plain_git_reads_the_trail(tmp_path: Path) -> None:
    def git(*args: str, told: str = "") -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", *who, *args], input=told, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-F", "-", told=FULL.render())
    assert git("log", "--format=%(trailers:key=Ravi-Task,valueonly)").strip() == "login-7f3k"
    assert git("log", "--format=%(trailers:key=Ravi-Callback,valueonly)").split("\n")[:2] == list(FULL.callbacks)
    assert parse(git("log", "--format=%B")) == FULL


@given(
    st.text(),
    st.text(),
    st.dictionaries(st.sampled_from([name for name in NAMES if name != "Ravi-Callback"]), st.text()),
    st.lists(st.text(), max_size=3),
)
def test_any_words_leave_exactly_the_trailers_that_were_meant(
    subject: str, body: str, values: dict[str, str], callbacks: list[str]
) -> None:
    message = Message(subject, body, values, tuple(callbacks)).render()
    read = parse(message)
    assert read.trailers.keys() <= values.keys()
    assert len(read.callbacks) <= len(callbacks)
    assert read.render() == message


def test_words_of_every_language_stay_as_they_are() -> None:
    said = "naïve 日本語\u3000全角 👩\u200d💻 ok"
    assert parse(Message("s", said).render()).body == said.replace("\u3000", " ")
