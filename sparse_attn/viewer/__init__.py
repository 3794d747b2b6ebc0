"""Pictures of what an attention does: a page to explore, a figure to print."""

from sparse_attn.viewer.view import View, inspect

__all__ = ["View", "inspect"]
