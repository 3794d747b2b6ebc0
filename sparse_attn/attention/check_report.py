"""What `check` found, as a verdict and as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparse_attn.attention.health import Health

_EQUAL = 1e-10


@dataclass(frozen=True)
class LayerCheck:
    """What `check` found about one attention; `str()` of it is a line.

    Args:
        name: dotted, empty for an attention that is the whole model.
        attention: what it is and how it is set.
        backend: what computed it.
        size: (H, W) of the map it was given.
        faults: what is wrong, in words; none where all is right.
        error: the largest difference to the slow twin, relative to the largest number of the output.
        tolerance: how large `error` may be.
        health: what is kept of dense attention; None where the groups cannot be used.
        top: how many of the heaviest keys `health.recall` is about.
    """

    name: str
    attention: str
    backend: str
    size: tuple[int, int]
    faults: tuple[str, ...]
    error: float
    tolerance: float
    health: Health | None
    top: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        verdict = f"right to {self.error:.0e}" if self.ok else f"WRONG, {', '.join(self.faults)}"
        return f"{self.name} {self.attention} ({self.backend}): {verdict}{self._compared()}".lstrip()

    def _compared(self) -> str:
        if self.health is None:
            return ""
        if self.health.recall == 1 and self.health.output_error < _EQUAL:
            return "; equal to dense attention here"
        kept, recall, error = (
            f"{100 * share:.3g} %" for share in (self.health.mass_kept, self.health.recall, self.health.output_error)
        )
        return f"; keeps {kept} of dense attention's weight (top {self.top}: {recall}), output differs by {error}"


@dataclass(frozen=True, repr=False)
class CheckReport:
    """What `check` found; `str()` of it is the verdict, a line for each attention.

    Args:
        layers: the attentions that were called.
        unused: names of those that were not.
    """

    layers: tuple[LayerCheck, ...]
    unused: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with any attention."""
        return all(layer.ok for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        return {"ok": self.ok, "layers": [{**asdict(n), "ok": n.ok} for n in self.layers], "unused": list(self.unused)}

    def __repr__(self) -> str:
        return f"CheckReport(ok={self.ok}, layers={len(self.layers)}, unused={len(self.unused)})"

    def __str__(self) -> str:
        lines = [str(layer) for layer in self.layers]
        lines += [f"{name}: not called" for name in self.unused]
        right = sum(layer.ok for layer in self.layers)
        return "\n".join([*lines, f"{right} of {len(self.layers)} right"])
