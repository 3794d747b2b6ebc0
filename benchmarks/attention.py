"""Time and memory of every registered attention, side by side: turns are interleaved and medians are reported.

Before anything is timed, each attention with a bucket that holds the whole map must equal `nla`.

Usage: python benchmarks/attention.py [--attentions 'n*'] [--sizes 32 64 96] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import sparse_attn

GATE_SIDE = 24
GATE_TOLERANCE = 1e-5


@dataclass
class Row:
    """One attention at one size.

    Args:
        name: the registered name.
        side: H = W.
        forward: seconds, one number a run.
        both: seconds of forward and backward together.
        kept_mib: memory that the forward pass keeps for the backward pass.
    """

    name: str
    side: int
    forward: list[float] = field(default_factory=list)
    both: list[float] = field(default_factory=list)
    kept_mib: float = 0.0


def build(name: str, channels: int, settings: dict[str, int], device: str) -> sparse_attn.Attention2d:
    """The attention with those of the settings that it has, seeded."""
    torch.manual_seed(0)
    block = sparse_attn.create_attention(name, channels)
    block.configure(**{key: value for key, value in settings.items() if key in block.settings})
    return block.to(device).eval()


def check_dense(names: Iterable[str], channels: int, device: str) -> None:
    """Stops the benchmark unless every attention equals `nla` where one bucket holds the map."""
    x = torch.randn(1, channels, GATE_SIDE, GATE_SIDE, device=device)
    settings = {"bucket_size": GATE_SIDE**2}
    expected = build("nla", channels, settings, device)(x)
    for name in names:
        error = (build(name, channels, settings, device)(x) - expected).abs().max() / expected.abs().max()
        if not error <= GATE_TOLERANCE:
            sys.exit(f"{name} with one bucket differs from nla by {error:.1e} of the largest value: nothing timed")


def kept_bytes(block: torch.nn.Module, x: Tensor) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass, parameters and input aside."""
    own = {t.untyped_storage().data_ptr() for t in (*block.parameters(), x)}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = block(x)
    del out
    return sum(kept.values())


def seconds_of(block: torch.nn.Module, x: Tensor, *, backward: bool) -> float:
    """Wall time of one pass."""
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        out = block(x)
    if backward:
        out.sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(names: list[str], args: argparse.Namespace) -> list[Row]:
    """All attentions at all sizes, taking turns; the first turn only warms up."""
    settings = {"bucket_size": args.bucket_size, "rounds": args.rounds}
    rows: list[Row] = []
    for side in args.sizes:
        x = torch.randn(1, args.channels, side, side, device=args.device, requires_grad=True)
        blocks = {name: build(name, args.channels, settings, args.device) for name in names}
        here = {name: Row(name, side, kept_mib=kept_bytes(block, x) / 2**20) for name, block in blocks.items()}
        for run in range(args.runs + 1):
            for name, block in blocks.items():
                forward = seconds_of(block, x, backward=False)
                both = seconds_of(block, x, backward=True)
                if run:
                    here[name].forward.append(forward)
                    here[name].both.append(both)
        rows += here.values()
    return rows


def table(rows: list[Row]) -> str:
    """One line a row, medians in milliseconds."""
    lines = [f"{'attention':<16}{'side':>6}{'forward ms':>12}{'fwd+bwd ms':>12}{'kept MiB':>10}"]
    for row in rows:
        forward, both = statistics.median(row.forward) * 1e3, statistics.median(row.both) * 1e3
        lines.append(f"{row.name:<16}{row.side:>6}{forward:>12.1f}{both:>12.1f}{row.kept_mib:>10.1f}")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attentions", default="*", help="a wildcard of names")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 96], help="sides of the square maps")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--bucket-size", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Checks, measures, prints, and writes JSON where asked to."""
    args = arguments()
    torch.set_num_threads(args.threads)
    names = sparse_attn.list_attention(args.attentions)
    check_dense(names, args.channels, args.device)
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    print(
        f"torch {torch.__version__}, {device}, {args.threads} threads, B=1, C={args.channels}, k={args.bucket_size}, "
        f"R={args.rounds}, float32, median of {args.runs} interleaved runs"
    )
    rows = measure(names, args)
    print(table(rows))
    if args.json:
        setup = {key: value for key, value in vars(args).items() if key != "json"}
        record = {"torch": torch.__version__, "device_name": device, **setup, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
