#!/usr/bin/env python3
"""The editor: hands each note to a researcher, and when all are read puts what they found together.

It keeps nothing in mind between its turns. Each time it compares what the order asks for with the children there are:
a note without a child gets one; when none is missing, the overview is written.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

TASK = os.environ["RAVI_TASK"]
NOTE = re.compile(r"^- (notes/\S+\.md)[ \t]*$", re.MULTILINE)
ORDER = re.compile(r"^Order: (.+?)[ \t]*$", re.MULTILINE)
WORDS = re.compile(r"\b(\d+) words\b")


def main():
    order = sys.stdin.read()
    notes = list(dict.fromkeys(NOTE.findall(order)))
    if not notes:
        sys.exit("the order names no note; write lines such as `- notes/NAME.md`")
    children = {child["title"]: child for child in ravi("tasks", "list", "--all", "--parent", TASK)}
    unread = [note for note in notes if title(note) not in children]
    for note in unread:
        ravi("tasks", "new", title(note), "--parent", TASK, "--assignee", "researcher",
             "--body", f"Read {note} and say what is in it.\n\n- {note}",
             "--set", "attempts=5", "--set", "backoff=1s")  # fmt: skip
    if unread:
        print(f"Asked for {', '.join(unread)} to be read.")
        return
    write((ORDER.findall(order) or ["by name"])[-1], [children[title(note)] for note in notes])


def title(note):
    return f"Read {note.removeprefix('notes/')}"


def write(asked, children):
    found = [child["summary"] for child in children if child["status"] == "done"]
    unread = [f"{child['title']}: {child['status']}" for child in children if child["status"] != "done"]
    by_length = asked.lower() == "longest first"
    found.sort(key=length if by_length else str.casefold, reverse=by_length)
    words = sum(map(length, found))
    lines = [f"# Overview: {len(found)} notes, {words} words", "", *(f"{n}. {line}" for n, line in enumerate(found, 1))]
    if unread:
        lines += ["", "Not read:", "", *(f"- {line}" for line in unread)]
    outputs = Path("outputs")
    outputs.mkdir(exist_ok=True)
    (outputs / "overview.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    order = "longest first" if by_length else "by name"
    print(f"The overview names {len(found)} notes, {words} words in all, {order}.")


def length(line):
    counted = WORDS.findall(line)
    return int(counted[-1]) if counted else 0


def ravi(*words):
    """Ask ravi, as this run; what it answers is JSON."""
    asked = subprocess.run(["ravi", "--json", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(asked.stdout)


if __name__ == "__main__":
    main()
