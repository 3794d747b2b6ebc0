"""Time of `import sparse_attn` against `import torch`, in fresh processes, interleaved; exit code 1 above the bound.

Usage: python benchmarks/import_time.py [--runs 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BOUND = 1.3
STATEMENTS = {"torch": "import torch", "sparse_attn": "import sparse_attn"}


def seconds_of(statement: str) -> float:
    """Wall time of one fresh interpreter that runs `statement`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def measure(runs: int) -> dict[str, float]:
    """Median seconds of each statement; the statements take turns, after one turn that only warms the disk."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for run in range(runs + 1):
        for name, statement in STATEMENTS.items():
            seconds = seconds_of(statement)
            if run:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Measures, prints, and compares with the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    medians = measure(args.runs)
    ratio = medians["sparse_attn"] / medians["torch"]
    for name, seconds in medians.items():
        print(f"import {name:12} {seconds:6.2f} s   (median of {args.runs})")
    print(f"ratio {ratio:.2f}, bound {BOUND}")
    if args.json:
        record = {"seconds": medians, "ratio": ratio, "runs": args.runs, "python": sys.version.split()[0]}
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
