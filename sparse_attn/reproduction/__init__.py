"""The paper's ablations, measured again: what to train is data, what was measured is a record."""

from sparse_attn.reproduction.arithmetic import ARITHMETIC, count_table, load_counts
from sparse_attn.reproduction.drawing import chart, counts_chart, require_matplotlib
from sparse_attn.reproduction.plan import Ablation, find_ablation, find_scale, list_ablations, load_ablation
from sparse_attn.reproduction.record import Record
from sparse_attn.reproduction.study import Effort, reproduce
from sparse_attn.reproduction.text import markdown, report

__all__ = [
    "ARITHMETIC",
    "Ablation",
    "Effort",
    "Record",
    "chart",
    "count_table",
    "counts_chart",
    "find_ablation",
    "find_scale",
    "list_ablations",
    "load_ablation",
    "load_counts",
    "markdown",
    "report",
    "reproduce",
    "require_matplotlib",
]
