"""Puts the small models of `zoo/` and the ablations' recipes into the wheel, below `sparse_attn/_zoo/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LARGEST_BUNDLED = 10_000_000
BUNDLED_FILES = ("config.json", "README.md", "recipe.yaml", "results.json", "training.json", "training_data.json")


def bundled_files(zoo: Path) -> list[Path]:
    """The files of every model whose weights are under 10 MB, and the ablations, sorted."""
    found: list[Path] = []
    for config in sorted(zoo.glob("*/config.json")):
        weights = sorted(config.parent.glob("*.safetensors*"))
        if weights and sum(file.stat().st_size for file in weights) < LARGEST_BUNDLED:
            found += [file for name in BUNDLED_FILES if (file := config.parent / name).is_file()] + weights
    return found + sorted((zoo / "ablations").rglob("*.yaml"))


class ZooBuildHook(BuildHookInterface[Any]):
    """Bundles for a real build only: an editable install reads the checkout's own `zoo/`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the files; called by hatchling for each target."""
        if version == "editable":
            return
        folder = "sparse_attn/_zoo" if self.target_name == "wheel" else "zoo"
        zoo = Path(self.root) / "zoo"
        for file in bundled_files(zoo):
            build_data["force_include"][str(file)] = f"{folder}/{file.relative_to(zoo).as_posix()}"
