"""Training: recipes, the loop, checkpoints. One process or many, through Hugging Face Accelerate and timm."""

from sparse_attn.training.config import Recipe, Stage
from sparse_attn.training.loop import Trainer
from sparse_attn.training.reading import load_recipe

__all__ = ["Recipe", "Stage", "Trainer", "load_recipe"]
