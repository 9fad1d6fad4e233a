"""All benchmarks, one after the other: `python -m tests.bench`. A quarter of an hour; nothing else should run."""

import subprocess
import sys
from pathlib import Path

for script in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(f"\n== {script.stem}", flush=True)
    subprocess.run([sys.executable, "-m", f"tests.bench.{script.stem}"], check=True)
