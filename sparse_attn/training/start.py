"""Starting from other weights: a network whose tail or attention differs."""

from __future__ import annotations

from torch import Tensor, nn

from sparse_attn.attention import Attention2d


def initialise(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, list[str]]:
    """Copies every tensor whose name and shape fit; attention that is new starts as the identity.

    Returns:
        The names that are `new` (kept at their initial values), that were `dropped` (in `weights` only) and whose
        `shape` differs.
    """
    own = model.state_dict()
    fits = {name: tensor for name, tensor in weights.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict({**own, **fits})
    new = sorted(set(own) - set(fits))
    for name, module in model.named_modules():
        if isinstance(module, Attention2d) and all(f"{name}.{key}" in new for key in module.state_dict()):
            module.zero_init_()
    return {
        "new": new,
        "dropped": sorted(set(weights) - set(own)),
        "shape": sorted(name for name in weights if name in own and name not in fits),
    }
