# The workshop. `just` alone runs what CI runs.

default: check

# Install what is needed and run all tests.
test:
    python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest -q -n 4 --dist worksteal

# Tests, style, types, and the demo: the same lines as CI.
check:
    .ci/run

# Put right what a program can put right.
fix:
    .venv/bin/ruff check --fix
    .venv/bin/ruff format

# Install and watch agents work.
demo:
    python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/ravi demo

# Write docs/cli.md anew from the help of all commands.
docs:
    .venv/bin/python -m ravi.cli.reference > docs/cli.md

# Measure; a quarter of an hour on a machine that does nothing else.
bench:
    .venv/bin/python -m tests.bench

# Every fault test in full size; takes an hour.
faults:
    RAVI_FAULTS=full .venv/bin/pytest -q -m fault
