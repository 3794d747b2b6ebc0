"""Speed and memory of attention, as `sparse-attn bench` measures them, from a checkout.

Usage: python benchmarks/attention.py [--suite bars] [--json FILE] [--plots FOLDER] ...; --help lists the options.
"""

from __future__ import annotations

import sys

from sparse_attn.cli import main

# Each contender is measured in a process that imports this file.
if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
