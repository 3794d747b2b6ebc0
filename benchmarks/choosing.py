"""What each attention costs, and what it does with trained features: the table on the page "Choosing an attention".

Usage: python benchmarks/choosing.py [--data FOLDER] [--json FILE] [--side 96] [--runs 9] [--threads N]

Cost: the forward pass of one block, 64 channels, on a map of noise; the contenders in turns, medians. Effect: a network
with weights keeps them and gets other attentions. How much of dense attention's weight is on the pixels that are
attended to, and the PSNR of what the network makes, on Set5. The weights were trained with `nlsa`, 144 and 4 rounds:
the PSNR says how alike the attentions are, not which would train best.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import sparse_attn
from sparse_attn.attention import Attention2d, probe
from sparse_attn.attention.health import health
from sparse_attn.benchmark.record import describe_machine
from sparse_attn.errors import SparseAttnError
from sparse_attn.imaging.tensors import to_tensor

ROOT = Path(__file__).resolve().parent.parent
MODEL = "nlsn_light_x4"
CHANNELS = 64


@dataclass(frozen=True)
class Contender:
    """An attention and its settings."""

    attention: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As in the table."""
        words = [f"{name}={value}" for name, value in self.settings.items()]
        return ", ".join([self.attention, *words])


def contenders() -> list[Contender]:
    """Each registered attention as it comes, and NLSA with other numbers."""
    others = [name for name in sparse_attn.list_attention() if name != "nlsa"]
    varied: list[dict[str, Any]] = [
        {"rounds": 1},
        {},
        {"rounds": 8},
        {"center": True},
        {"bucket_size": 64},
        {"bucket_size": 256},
    ]
    return [*(Contender("nlsa", settings) for settings in varied), *map(Contender, others)]


def costs(found: list[Contender], *, side: int, runs: int) -> list[list[float]]:
    """Seconds of each contender's forward passes, measured in turns after one that warms up."""
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, side, side)
    blocks = [sparse_attn.create_attention(c.attention, CHANNELS, **c.settings).eval() for c in found]
    seconds: list[list[float]] = [[] for _ in blocks]
    with torch.inference_mode():
        for turn in range(runs + 1):
            for block, times in zip(blocks, seconds, strict=True):
                began = time.perf_counter()
                block(x)
                if turn:
                    times.append(time.perf_counter() - began)
    return seconds


def effect(contender: Contender | None, folder: Path) -> dict[str, float]:
    """What the network does with this attention, or without one: PSNR, and means over its attentions and the images."""
    kwargs: dict[str, Any] = {}
    if contender is not None:
        kwargs = {"attention": contender.attention, "attention_kwargs": contender.settings}
    network = sparse_attn.create_model(MODEL, pretrained=True, **kwargs).eval()
    if contender is None:
        for block in network.modules():
            if isinstance(block, Attention2d):
                block.res_scale = 0.0
    measured = {"psnr": sparse_attn.evaluate(network, folder).psnr}
    if contender is None:
        return measured
    healths = []
    for path in sorted((folder / "LR").iterdir()):
        pixels = to_tensor(sparse_attn.read_image(path).pixels)
        healths += [asdict(health(found, queries=256)) for found in probe(network, pixels).values()]
    names = ("keys_met", "mass_kept", "recall", "output_error")
    return measured | {name: statistics.fmean(h[name] for h in healths) for name in names}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="holds eval/Set5/x4")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "choosing.json")
    parser.add_argument("--side", type=int, default=96, help="of the map that is timed")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = arguments.data / "eval" / "Set5" / "x4"
    found = contenders()
    try:
        seconds = costs(found, side=arguments.side, runs=arguments.runs)
        rows: list[dict[str, Any]] = [
            {"attention": c.label, "seconds": times, **effect(c, folder)}
            for c, times in zip(found, seconds, strict=True)
        ]
        without = effect(None, folder)
    except SparseAttnError as error:
        sys.exit(f"error: {error}")
    record = {
        "command": shlex.join(["python", "benchmarks/choosing.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": describe_machine("cpu"),
        "threads": torch.get_num_threads(),
        "model": MODEL,
        "images": "Set5",
        "channels": CHANNELS,
        "side": arguments.side,
        "rows": rows,
        "without": without,
    }
    arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row['attention']}: {1e3 * statistics.median(row['seconds']):.1f} ms, {row['psnr']:.3f} dB")


if __name__ == "__main__":
    main()
