"""The module of this package's models in timm's registry: `register` puts a function for each here, under its name."""

from __future__ import annotations

from typing import Any

# timm keeps the names of a module's models in the first, and looks for their data configurations in the second.
__all__: list[str] = []
default_cfgs: dict[str, Any] = {}
