"""What a run says, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparse_attn.benchmark.cases import Case
from sparse_attn.benchmark.record import Record, Row, Verdict
from sparse_attn.benchmark.scaling import exponent

_MIB = 2**20
LARGEST_EXPONENT = 1.1
HEADER = ("contender", "forward ms", "fwd+bwd ms", "step ms", "MiB fwd", "MiB fwd+bwd", "of matmul", "error")


def cells(row: Row) -> list[str]:
    """One contender: medians, added memory, and the forward pass's fraction of the matmul rate."""

    def time(run: str) -> str:
        seconds = row.median("seconds", run)  # type: ignore[arg-type]
        return "" if seconds is None else f"{seconds * 1e3:.4g}"

    def mib(run: str) -> str:
        found = row.median("memory", run)  # type: ignore[arg-type]
        return "" if found is None else f"{found / _MIB:.1f}"

    fraction = row.fraction.get("forward")
    worst = max((row.errors[name] for name in ("output", "gradient") if name in row.errors), default=None)
    return [
        row.contender,
        time("forward"),
        time("both"),
        time("step"),
        mib("forward"),
        mib("both"),
        "" if fraction is None else f"{fraction:.0%}",
        "" if worst is None else f"{worst:.0e}",
    ]


def by_case(rows: Iterable[Row]) -> dict[Case, list[Row]]:
    """The rows of each case."""
    found: dict[Case, list[Row]] = {}
    for row in rows:
        found.setdefault(row.case, []).append(row)
    return found


def timed_columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The header and the cells of those that were timed, without the columns in which there is nothing."""
    lines = [cells(row) for row in rows if row.problem is None]
    used = [i for i in range(len(HEADER)) if i == 0 or any(line[i] for line in lines)]
    return [HEADER[i] for i in used], [[line[i] for i in used] for line in lines]


def notes(rows: Iterable[Row]) -> list[str]:
    """Who was not timed and why; how long compiling took."""
    found = []
    for row in rows:
        if row.problem is not None:
            errors = ", ".join(f"{name} {value:.1e}" for name, value in row.errors.items() if name != "side")
            found.append(f"{row.contender}: {'FAILED' if row.failed else 'left out'}: {row.problem}")
            found[-1] += f" ({errors})" if row.failed else ""
        elif "compiled" in row.contender:
            found.append(f"{row.contender}: first passes took {sum(row.first.values()):.1f} s, in no median")
    return found


def verdict_cells(bar: Verdict) -> list[str]:
    """Case, comparison, bar, value, and how much it is met or missed by."""
    unit = "x" if bar.at_least else " ms"
    scale = 1.0 if bar.at_least else 1e3
    wanted = f"{'at least' if bar.at_least else 'at most'} {bar.wanted * scale:.3g}{unit}"
    if bar.value is None:
        return [bar.where, bar.what, wanted, "", "not measured"]
    judged = "a toy: not judged"
    if bar.met is not None:
        judged = f"{'met' if bar.met else 'MISSED'}, {bar.value / bar.wanted - 1.0:+.0%}"
    return [bar.where, bar.what, wanted, f"{bar.value * scale:.3g}{unit}", judged]


def exponents(record: Record) -> dict[tuple[str, str], float]:
    """For each contender and pass timed at three sizes or more, p of time = c * N^p."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in record.rows:
        if row.case.model is None and row.problem is None:
            rest = f"{row.case.channels} {row.case.batch} {row.case.rounds}"
            for run in row.case.passes:
                seconds = row.median("seconds", run)
                points = found.setdefault((row.contender, run), {}).setdefault(rest, [])
                points += [(float(row.case.tokens), seconds)] if seconds else []
    fits: dict[tuple[str, str], float] = {}
    for key, groups in found.items():
        for points in groups.values():
            fit = exponent(*zip(*points, strict=True)) if len({n for n, _ in points}) >= 3 else None
            if fit is not None:
                fits[key] = max(fit, fits.get(key, fit))
    return fits


def exponent_cells(record: Record) -> list[list[str]]:
    """Contender, pass, exponent, and whether it is linear, which is the bar of the sparse backends."""

    def judged(name: str, fit: float) -> str:
        if name.split(" ")[0] not in ("blocked", "native", "triton"):
            return ""
        return f"{'met' if fit <= LARGEST_EXPONENT else 'MISSED'}, {fit / LARGEST_EXPONENT - 1.0:+.0%}"

    return [[name, run, f"{fit:.2f}", judged(name, fit)] for (name, run), fit in exponents(record).items()]


def machine_line(record: Record) -> str:
    """What the numbers were measured on and how."""
    machine, setup, rates = record.machine, record.setup, record.rates
    allocator = machine["allocator"]
    named = allocator if isinstance(allocator, str) else ", ".join(f"{k}={v}" for k, v in allocator.items())
    return (
        f"{machine['gpu'] or machine['cpu']}, torch {machine['torch']}, {setup.threads} threads, allocator: {named}; "
        f"matmul {rates['float32'] / 1e9:.0f} GFLOP/s in float32, {rates['bf16'] / 1e9:.0f} in bf16; "
        f"copy {rates['copy'] / 1e9:.1f} GB/s; medians of {setup.runs} turns"
    )


def _aligned(lines: Sequence[Sequence[str]], *, left: int) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def report(record: Record) -> str:
    """Everything, for a person at a terminal."""
    lines = [machine_line(record)]
    for case, rows in by_case(record.rows).items():
        header, timed = timed_columns(rows)
        lines += ["", case.label, *(_aligned([header, *timed], left=1) if timed else []), *notes(rows)]
        if case.training:
            lines += [f"{r.contender}: {1 / s:.3g} steps a second" for r in rows if (s := r.median("seconds", "step"))]
    if fits := exponent_cells(record):
        lines += ["", f"time grows with N to the power of (linear: at most {LARGEST_EXPONENT})"]
        lines += _aligned(fits, left=2)
    if record.bars:
        lines += ["", *_aligned([["case", "bar", "wanted", "measured", ""], *map(verdict_cells, record.bars)], left=2)]
    return "\n".join(lines)
