"""Training: recipes, the loop, checkpoints."""

from sparse_attn.training.config import Recipe, Stage, load_recipe
from sparse_attn.training.loop import Trainer

__all__ = ["Recipe", "Stage", "Trainer", "load_recipe"]
