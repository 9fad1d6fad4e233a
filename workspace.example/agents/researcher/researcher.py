#!/usr/bin/env python3
"""The researcher: reads one note, counts its words, collects its headings. A note that is not there is a failure."""

import os
import re
import subprocess
import sys
from pathlib import Path

NOTE = re.compile(r"^- (notes/\S+\.md)[ \t]*$", re.MULTILINE)
HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*$", re.MULTILINE)
WORD = re.compile(r"\w+")


def main():
    named = NOTE.findall(sys.stdin.read())
    if not named:
        sys.exit("the order names no note; write a line such as `- notes/NAME.md`")
    note = named[-1]
    progress = ["ravi", "tasks", "progress", os.environ["RAVI_TASK"], f"reading {note}"]
    subprocess.run(progress, check=True, stdout=subprocess.DEVNULL)
    try:
        text = Path(os.environ["RAVI_WORKSPACE"], note).read_text(encoding="utf-8")
    except FileNotFoundError:
        sys.exit(f"{note} is not there yet")
    headings = HEADING.findall(text)
    outputs = Path("outputs")
    outputs.mkdir(exist_ok=True)
    lines = [f"# Headings of {note}", "", *("  " * (len(marks) - 1) + f"- {words}" for marks, words in headings)]
    (outputs / "headings.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    title = headings[0][1] if headings else note
    print(f"{title} ({note}): {len(WORD.findall(text))} words, {len(headings)} headings")


if __name__ == "__main__":
    main()
