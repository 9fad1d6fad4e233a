"""docs/guarantees.md promises nothing that is not tested: every test it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "guarantees.md"


def test_every_guarantee_names_a_test_that_is_there() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \*?\*?\d", line)]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`(?: `(test_\w+)`)?", row)
        assert named, f"a promise without a test: {row}"
        for file, name in named:
            text = (ROOT / file).read_text()
            assert f"def {name}(" in text or not name, f"{file} has no {name}"


def test_every_fault_test_is_in_the_guarantees() -> None:
    page = PAGE.read_text()
    for file in sorted((ROOT / "tests" / "faults").glob("test_*.py")):
        if file.name == Path(__file__).name:
            continue
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE):
            assert name in page, f"{file.name}: {name} is not in docs/guarantees.md"
