"""A network with dense attention to convert, and what of it has to stay as it was."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention.nla import NonLocalAttention
from tests.attention.support import make

SMALL = {"bucket_size": (9, 16), "rounds": (1, 4)}


def network(**attention: Any) -> nn.Sequential:
    """A CNN of plain modules with BatchNorm and two dense attentions, in training mode."""
    torch.manual_seed(3)
    dense = [make("nla", **attention) for _ in range(2)]
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        dense[0],
        nn.Sequential(nn.ReLU(inplace=True), dense[1]),
        nn.Conv2d(6, 2, 1),
    )
    return model.double()


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(1, 3, *size, dtype=torch.float64, generator=generator) for size in ((11, 13), (9, 17))]


def seen_by_dense(model: nn.Module) -> tuple[list[list[Tensor]], list[Tensor]]:
    """What each dense attention is given in evaluation, image by image, and what the model returns."""
    model, given, out = copy.deepcopy(model).eval(), [], []
    blocks = [module for module in model.modules() if isinstance(module, NonLocalAttention)]
    for image in images():
        row: list[Tensor] = []
        for block in blocks:
            block.register_forward_pre_hook(lambda _module, args, row=row: row.append(args[0].clone()))
        with torch.no_grad():
            out.append(model(image))
        given.append(row[: len(blocks)])
        for block in blocks:
            block._forward_pre_hooks.clear()
    return [list(layer) for layer in zip(*given, strict=True)], out


def everything(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "types": {name: type(module) for name, module in model.named_modules()},
        "random": torch.get_rng_state(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any], *, besides: tuple[str, ...] = ()) -> None:
    assert before["modes"].items() <= after["modes"].items()
    assert torch.equal(before["random"], after["random"])
    if "types" not in besides:
        assert before["types"] == after["types"]
    for name, tensor in before["state"].items():
        if not name.startswith(besides):
            assert torch.equal(tensor, after["state"][name]), name
