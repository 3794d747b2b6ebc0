"""Running somebody's model once to see what its modules give, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.errors import ConfigError

Sample = Tensor | tuple[Any, ...] | None
SAMPLE_SIDE = 64


class DoesNotRunError(ConfigError):
    """The model cannot be run on the sample, so nothing is known of its modules."""


class Outputs:
    """What modules gave in one pass, in the order of the calls.

    Attributes:
        of: each module's outputs.
        features_last: shapes of the (B, H, W, C) maps that layers within each module gave.
        result: what the model returned.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.of: dict[nn.Module, list[Any]] = {module: [] for module in modules}
        self.features_last: dict[nn.Module, set[tuple[int, ...]]] = {module: set() for module in self.of}
        self.result: Any = None

    def note(self, module: nn.Module, _args: object, output: Any) -> None:
        """A forward hook of the modules."""
        self.of[module].append(output)

    def noting_last(self, host: nn.Module, features: int) -> Callable[[nn.Module, object, Any], None]:
        """A forward hook of a layer within `host` that works on the last axis."""

        def note(_layer: nn.Module, _args: object, output: Any) -> None:
            # A map as wide as it has features is taken to have them first.
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[3] == features != output.shape[1]:
                self.features_last[host].add(tuple(output.shape))

        return note


class Probe(nn.Module):
    """A child that passes on what it is given, to see whether its parent runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: list[Any] = []

    def forward(self, x: Any) -> Any:
        """`x`, noted."""
        self.reached.append(x)
        return x


def run(model: nn.Module, modules: Iterable[nn.Module], inputs: tuple[Any, ...]) -> Outputs:
    """One pass through the model, watching some of its modules."""
    outputs = Outputs(modules)
    with ExitStack() as hooks:
        for module in outputs.of:
            hooks.callback(module.register_forward_hook(outputs.note).remove)
            for layer in module.modules():
                features = _last_features(layer)
                if features is not None:
                    note = outputs.noting_last(module, features)
                    hooks.callback(layer.register_forward_hook(note).remove)
        # A model may work on its input in place.
        outputs.result = model(*(x.clone() if isinstance(x, Tensor) else x for x in inputs))
    return outputs


def same(a: Any, b: Any) -> bool:
    """Whether two results of a model hold the same numbers, bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return a.is_meta or bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if is_dataclass(a) and type(a) is type(b):
        return same(vars(a), vars(b))
    return type(a) is type(b)


def inputs_of(model: nn.Module, sample: Sample) -> tuple[Any, ...]:
    """The model's inputs; by default noise, 64x64 pixels with the channels of its first convolution.

    Raises:
        ConfigError: a sample that is neither a tensor nor a tuple.
        DoesNotRunError: nothing was given and the model has no convolution.
    """
    if isinstance(sample, Tensor):
        return (sample,)
    if isinstance(sample, tuple | list):
        return tuple(sample)
    if sample is not None:
        raise ConfigError(
            "bad sample",
            expected="a tensor, or the tuple of the model's inputs",
            got=type(sample).__name__,
            remedy="inputs by name go into a small module around the model",
        )
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise DoesNotRunError(
            "the model has no convolution to guess its input from", remedy="pass sample=, a tensor or a tuple of inputs"
        )
    like = first.weight
    # Zeros would pass through a network without biases as zeros, whatever its modules do.
    noise = torch.rand(1, first.in_channels, SAMPLE_SIDE, SAMPLE_SIDE, generator=torch.Generator().manual_seed(0))
    return (noise.to(like.device, like.dtype),)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards modes, buffers and the global random state are what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = [
        (module, name, tensor, tensor.clone())
        for module in modes
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for module, name, tensor, value in buffers:
                module._buffers[name] = tensor
                if not tensor.is_meta and not torch.equal(tensor, value):
                    tensor.copy_(value)


@contextmanager
def explained(problem: str, remedy: str, kind: type[ConfigError] = ConfigError) -> Iterator[None]:
    """Turns what a model's own code raises into this package's error.

    Raises:
        ConfigError: with the first line of it, of the given kind.
    """
    try:
        yield
    except Exception as error:
        got = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise kind(problem, got=got, remedy=remedy) from error


def _last_features(layer: nn.Module) -> int | None:
    match layer:
        case nn.Linear():
            return layer.out_features
        case nn.LayerNorm():
            return layer.normalized_shape[-1]
    return None
