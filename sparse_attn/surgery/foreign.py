"""Non-local blocks of other libraries, recognised by their parts, as the projections that an attention here has.

Wang et al., "Non-local Neural Networks", CVPR 2018, embedded Gaussian: x + W(softmax(s theta(x) phi(x)') g(x)), as in
timm's `NonLocalAttn`, mmcv's `NonLocal2d` and the PyTorch re-implementation that both follow. The weights of a softmax
sum to 1, so W after g is one 1x1 convolution of the values, and s can be taken into theta.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention import Attention2d
from sparse_attn.errors import ConfigError

_QUERY_KEY_VALUE = {"theta": ("theta",), "phi": ("phi",), "g": ("g",)}
LAYOUTS: tuple[Mapping[str, tuple[str, ...]], ...] = (
    {"theta": ("t",), "phi": ("p",), "g": ("g",), "out": ("z", "norm")},
    {**_QUERY_KEY_VALUE, "out": ("conv_out",)},
    {**_QUERY_KEY_VALUE, "out": ("W",)},
    {**_QUERY_KEY_VALUE, "out": ("W_z",)},
)
"""The children that play each part, in the order they run."""

PROBE_SIZE = (5, 7)
AGREEMENT = 1e-8


@dataclass(frozen=True)
class Affine:
    """A 1x1 convolution, in float64 on the CPU.

    Args:
        weight: (O, I).
        bias: (O,).
    """

    weight: Tensor
    bias: Tensor

    def then(self, after: Affine) -> Affine:
        """This one and `after` it as one."""
        return Affine(after.weight @ self.weight, after.weight @ self.bias + after.bias)

    def __call__(self, tokens: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        return tokens @ self.weight.T + self.bias


@dataclass(frozen=True)
class Projections:
    """What a block is made of, its scale within `query`.

    Args:
        query: (D, C).
        key: (D, C).
        value: (C, C), the output projection and its batch norm included.
        notes: what is not quite the same.
        frozen: those of `query`, `key` and `value` that were not trained.
    """

    query: Affine
    key: Affine
    value: Affine
    notes: tuple[str, ...] = ()
    frozen: frozenset[str] = frozenset()


def is_foreign(module: nn.Module) -> bool:
    """Whether a module has the parts of a non-local block that is not of this package."""
    return not isinstance(module, Attention2d) and _parts(module) is not None


def channels_of(module: nn.Module) -> int:
    """C of a block that `is_foreign`."""
    parts = _parts(module)
    first = parts["g"][0] if parts else None
    if not isinstance(first, nn.Conv2d):
        raise ConfigError("not a non-local block", got=type(module).__name__)
    return first.in_channels


def projections(module: nn.Module, name: str) -> Projections | str:
    """The projections of a block that `is_foreign`, or why its weights mean something else than an attention's here.

    What the block computes is found by trying: a copy with random weights is compared with the formula, once for each
    scale that is in use.
    """
    try:
        trial = copy.deepcopy(module).to_empty(device="cpu").double().eval()
    except Exception as error:
        raise _untried(module, name, error) from error
    # Somebody's hooks are to see the network's maps, not those of a trial.
    for hooks in [hooks for part in trial.modules() for hooks in _hooks(part)]:
        hooks.clear()
    _randomise(trial)
    pooled = _remove_pooling(trial)
    scale = _scale(trial, name)
    if scale is None:
        return "it is no softmax of theta times phi (embedded Gaussian)"
    found = _projections(module)
    if isinstance(found, str):
        return found
    notes = []
    if pooled:
        notes.append("it attended to a max-pooled map, now to every pixel")
    parts = _parts(module) or {}
    if any(isinstance(layer, nn.BatchNorm2d) for layer in parts["out"]):
        notes.append("its batch norm is folded in with its running statistics")
    query = Affine(found.query.weight * scale, found.query.bias * scale)
    return replace(found, query=query, notes=tuple(notes))


def _parts(module: nn.Module) -> dict[str, list[nn.Module]] | None:
    """The layers of each part, in order, if there is a layout whose parts the module has."""
    children = dict(module.named_children())
    for layout in LAYOUTS:
        if not all(child in children for names in layout.values() for child in names):
            continue
        parts = {part: _layers([children[name] for name in names]) for part, names in layout.items()}
        layers = {part: own for part, own in parts.items() if own}
        if len(layers) == len(parts) and _fit(layers):
            return layers
    return None


def _fit(parts: Mapping[str, Sequence[nn.Module]]) -> bool:
    first = {part: layers[0] for part, layers in parts.items()}
    convolutions = [layer for layer in first.values() if isinstance(layer, nn.Conv2d)]
    every = {part: [layer for layer in layers if isinstance(layer, nn.Conv2d)] for part, layers in parts.items()}
    if len(convolutions) < len(first) or any(_is_wide(layer) for own in every.values() for layer in own):
        return False
    takes = {part: own[0].in_channels for part, own in every.items()}
    gives = {part: own[-1].out_channels for part, own in every.items()}
    return (
        takes["theta"] == takes["phi"] == takes["g"] == gives["out"]
        and gives["theta"] == gives["phi"]
        and gives["g"] == takes["out"]
    )


def _is_wide(layer: nn.Conv2d) -> bool:
    return layer.kernel_size != (1, 1) or layer.stride != (1, 1) or layer.groups != 1 or layer.padding != (0, 0)


def _layers(modules: Sequence[nn.Module]) -> list[nn.Module] | None:
    """The convolutions, batch norms and poolings that run one after the other, or None if there is something else."""
    found: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.MaxPool2d):
            found.append(module)
        elif not isinstance(module, nn.Identity):
            children = list(module.children())
            inner = _layers(children) if children else None
            if inner is None:
                return None
            found += inner
    return found


def _projections(module: nn.Module) -> Projections | str:
    parts = _parts(module) or {}
    affine = {part: _affine(layers) for part, layers in parts.items()}
    theta, phi, g, out = (affine.get(part) for part in ("theta", "phi", "g", "out"))
    if theta is None or phi is None or g is None or out is None:
        return "a batch norm has no running statistics to fold in"
    trained = {
        part for part, layers in parts.items() for layer in layers for p in layer.parameters() if p.requires_grad
    }
    makes = {"query": {"theta"}, "key": {"phi"}, "value": {"g", "out"}}
    frozen = frozenset(name for name, of in makes.items() if not of & trained)
    return Projections(theta, phi, g.then(out), frozen=frozen)


def _affine(layers: Sequence[nn.Module]) -> Affine | None:
    whole: Affine | None = None
    for layer in layers:
        if isinstance(layer, nn.MaxPool2d):
            continue
        step = _step(layer)
        if step is None:
            return None
        whole = step if whole is None else whole.then(step)
    return whole


def _step(layer: nn.Module) -> Affine | None:
    match layer:
        case nn.Conv2d():
            weight = _double(layer.weight).flatten(1)
            return Affine(weight, torch.zeros(len(weight)).double() if layer.bias is None else _double(layer.bias))
        case nn.BatchNorm2d(running_mean=Tensor() as mean, running_var=Tensor() as variance):
            factor = (_double(variance) + layer.eps).rsqrt() * (1 if layer.weight is None else _double(layer.weight))
            return Affine(factor.diag(), (0 if layer.bias is None else _double(layer.bias)) - _double(mean) * factor)
    return None


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)


def _randomise(module: nn.Module) -> None:
    """Weights that make scores of order 1, so that another formula or scale would show."""
    generator = torch.Generator().manual_seed(0)
    for own in module.modules():
        for tensor in own._parameters.values():
            if tensor is not None:
                spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 1.0
                tensor.data.normal_(0, spread, generator=generator)
        for buffer in own._buffers.values():
            if buffer is not None and buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5, generator=generator)
            elif buffer is not None:
                buffer.zero_()


def hooks_of(module: nn.Module) -> int:
    """How many forward and backward hooks a module and what lies in it have."""
    return sum(len(hooks) for part in module.modules() for hooks in _hooks(part))


def refuse_computed(module: nn.Module, name: str) -> None:
    """Weights that a hook makes before each call are stale between calls.

    Raises:
        ConfigError: `torch.nn.utils.weight_norm` or `spectral_norm` is on a part of `module`.
    """
    for path, part in module.named_modules(prefix=name):
        if any(type(hook).__module__.startswith("torch.nn.utils.") for hook in part._forward_pre_hooks.values()):
            raise ConfigError(
                f"a hook computes the weight of {path}, which cannot be carried over",
                remedy="torch.nn.utils.remove_weight_norm or remove_spectral_norm first",
            )


def _hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


def _untried(module: nn.Module, name: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"{name} ({type(module).__name__}) looks like a non-local block, but cannot be tried",
        got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
        remedy="leave it out of the pattern",
    )


def _remove_pooling(module: nn.Module) -> bool:
    pooled = False
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                parent.register_module(name, nn.Identity())
                pooled = True
    return pooled


def _scale(trial: nn.Module, name: str) -> float | None:
    """The factor on the scores with which the formula gives what the block gives."""
    found = _projections(trial)
    if isinstance(found, str):
        return None
    channels = found.value.weight.shape[0]
    x = torch.randn(1, channels, *PROBE_SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    try:
        with torch.no_grad():
            wanted = trial(x)
    except Exception as error:
        raise _untried(trial, name, error) from error
    if not isinstance(wanted, Tensor) or wanted.shape != x.shape:
        return None
    tokens = x[0].flatten(1).T
    scores = found.query(tokens) @ found.key(tokens).T
    for scale in (1.0, found.query.weight.shape[0] ** -0.5, channels**-0.5):
        mixed = found.value((scale * scores).softmax(1) @ tokens)
        if torch.allclose(x[0].flatten(1) + mixed.T, wanted[0].flatten(1), rtol=AGREEMENT, atol=AGREEMENT):
            return scale
    return None
