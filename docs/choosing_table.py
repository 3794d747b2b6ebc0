"""The table of what each attention costs and does, from `benchmarks/choosing.json`.

Usage: python docs/choosing_table.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from bench_tables import table

RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "choosing.json"
COMMAND = "python benchmarks/choosing.py"
HEADER = ["", "ms", "pixels compared with", "dense weight kept", "best 16 found", "output off by", "Set5, dB"]


def choosing_table(path: Path = RESULT) -> str:
    """What was measured, and how."""
    if not path.is_file():
        return f"Not measured yet: `{COMMAND}` does."
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    side, machine = record["side"], record["machine"]
    return "\n\n".join(
        [
            table(HEADER, [*map(cells, record["rows"]), ["*none*", *["–"] * 5, f"{record['without']['psnr']:.2f}"]]),
            f"*ms*: forward pass of one block, {record['channels']} channels, {side}×{side} pixels, float32, medians "
            f"of {len(record['rows'][0]['seconds'])}, {record['threads']} threads of {machine['cpu']}. The rest: "
            f"the weights of `{record['model']}`, trained with `nlsa` as it comes, given other attentions without "
            f"further training, on the images of {record['images']}; means over its attentions and the images. "
            f"*Dense weight kept*: the share of dense attention's weight that is on pixels that are attended to. "
            f"*Output off by*: the distance from what dense attention gives, as a part of it. Measured by "
            f"`{record['command']}`, {record['date']}.",
        ]
    )


def cells(row: dict[str, Any]) -> list[str]:
    """One line."""
    return [
        f"`{row['attention']}`",
        f"{1e3 * statistics.median(row['seconds']):.1f}",
        f"{row['keys_met']:,.0f}",
        *(f"{row[name]:.0%}" for name in ("mass_kept", "recall", "output_error")),
        f"{row['psnr']:.2f}",
    ]


if __name__ == "__main__":
    print(choosing_table())
