"""Starting from other weights: a network whose scale, tail or attention differs."""

from __future__ import annotations

import re

from torch import Tensor, nn

from sparse_attn.attention import Attention2d

_UPSAMPLER_STAGE = re.compile(r"(?P<head>(?:.*\.)?upsampler\.)(?P<stage>\d+)(?P<tail>\..+)")


def initialise(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, list[str]]:
    """Copies every tensor whose name and shape fit; attention that is new starts as the identity.

    The enlargement by 4 is two enlargements by 2: where `weights` have one of them only, as those of a network of
    scale 2 do, the second starts as a copy of the first ("adapted").

    Returns:
        The names of `model`'s tensors that were `taken`, `adapted` (from another name) or are `new` (at their initial
        values), of those `dropped` (in `weights` only), and of those that are new because their `shape` differs.
    """
    own = model.state_dict()
    taken = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    adapted = _adapt_upsampler(own, weights, taken)
    model.load_state_dict({**own, **taken, **adapted})
    new = sorted(set(own) - set(taken) - set(adapted))
    for name, module in model.named_modules():
        if isinstance(module, Attention2d) and all(f"{name}.{key}" in new for key in module.state_dict()):
            module.zero_init_()
    return {
        "taken": sorted(taken),
        "adapted": sorted(adapted),
        "new": new,
        "dropped": sorted(set(weights) - set(own)),
        "shape": sorted(name for name in weights if name in own and name not in taken),
    }


def _adapt_upsampler(own: dict[str, Tensor], weights: dict[str, Tensor], taken: dict[str, Tensor]) -> dict[str, Tensor]:
    adapted = {}
    for name, tensor in own.items():
        match = _UPSAMPLER_STAGE.fullmatch(name)
        if match is None or name in taken or name in weights:
            continue
        first = f"{match['head']}0{match['tail']}"
        if first in taken and taken[first].shape == tensor.shape:
            adapted[name] = taken[first]
    return adapted
