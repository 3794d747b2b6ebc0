"""Speed and memory, measured in the open: contenders in processes of their own, checked before they are timed."""

from sparse_attn.benchmark.cases import SUITES, Case, Grid
from sparse_attn.benchmark.drawing import STYLE, plots
from sparse_attn.benchmark.record import Record, Setup, describe_machine
from sparse_attn.benchmark.table import report
from sparse_attn.benchmark.turns import measure

__all__ = ["STYLE", "SUITES", "Case", "Grid", "Record", "Setup", "describe_machine", "measure", "plots", "report"]
