"""What the authors' networks computed, and the comparison every backbone must pass."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from sparse_attn.attention import use_rotations
from sparse_attn.weights.layouts import authors_names
from tests.tolerances import RELATIVE


@dataclass(frozen=True)
class Original:
    """One reference file: tensors by name, hyper-parameters, and the parameters with a gradient norm."""

    tensors: dict[str, Tensor]
    hyper: dict[str, Any]
    gradnorm_names: list[str]

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name.removeprefix("param."): t for name, t in self.tensors.items() if name.startswith("param.")}

    @property
    def rotations(self) -> list[Tensor]:
        found = sorted(name for name in self.tensors if name.startswith("rotations."))
        return [self.tensors[name][0] for name in found]


def read_original(folder: Path, name: str) -> Original:
    with safe_open(folder / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    return Original(tensors, json.loads(metadata["hyper_parameters"]), json.loads(metadata.get("gradnorm_names", "[]")))


def assert_same_network(model: nn.Module, original: Original, dtype: torch.dtype) -> None:
    """Output, input gradient and parameter gradients of a loaded model against the original's."""
    kind = str(dtype).removeprefix("torch.")
    suffix = "_f64" if dtype is torch.float64 else ""
    wanted = original.tensors[f"output{suffix}"]
    model = model.to(dtype).eval()
    tensors = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if b.is_floating_point()}}
    for tensor in tensors.values():
        tensor.requires_grad_()
    x = original.tensors["input"].to(dtype).requires_grad_()

    rotations = original.rotations
    with use_rotations(model, rotations) if rotations else nullcontext():
        output = model(x)
    (output * original.tensors["cotangent"].to(dtype)).sum().backward()

    assert output.dtype == wanted.dtype
    assert_near(output.detach(), wanted, RELATIVE[kind])
    assert_near(x.grad, original.tensors[f"grad{suffix}.input"], RELATIVE[kind])

    theirs = authors_names(model.state_dict())
    grads = {theirs[name]: tensor.grad for name, tensor in tensors.items()}
    for index, name in enumerate(original.gradnorm_names):
        norm = original.tensors["gradnorm_f64"][index]
        assert abs(grads[name].double().norm() - norm) <= RELATIVE["gradnorm.network"] * norm, name
    for name, wanted_grad in original.tensors.items():
        own = name.removeprefix("grad.")
        if name.startswith("grad.") and own != "input":
            assert_near(grads[own], wanted_grad, RELATIVE["float32.param_grad"])


def assert_near(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
