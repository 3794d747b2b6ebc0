"""How many channels a module gives, and how it can be followed: read off it, or found by running the model once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.errors import ConfigError
from sparse_attn.surgery.record import CHILD, HOOK, IN_ROW
from sparse_attn.surgery.watching import DoesNotRunError, Probe, Sample, explained, inputs_of, run, same, undisturbed


@dataclass(frozen=True)
class Seen:
    """What is known of a module.

    Args:
        channels: C of its output.
        by: `hook` or `child`, how an attention after it is run.
        calls: how often one pass through the model runs it; None if that was not tried.
        device: of its output; None if that was not tried.
        dtype: of its output; None if that was not tried.
    """

    channels: int
    by: str = HOOK
    calls: int | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None


def certain(module: nn.Module) -> Seen | None:
    """What a convolution or batch norm says of itself; None of any other module."""
    match module:
        case nn.Conv2d() | nn.ConvTranspose2d():
            return Seen(module.out_channels)
        case nn.BatchNorm2d():
            return Seen(module.num_features)
    return None


def trace(model: nn.Module, names: Mapping[nn.Module, str], sample: Sample) -> dict[nn.Module, Seen]:
    """Runs the model, in eval mode and without gradients, and watches some of its modules.

    Modes, buffers and the global random state are left as they were. Where modules have children it is run a second
    time, each with one child more that changes nothing, to see which modules run all their children in a row.

    Args:
        model: what is run.
        names: the modules that are watched, and what errors call them.
        sample: a tensor, or the tuple of the model's inputs; None is noise, 64x64 pixels with the channels of the first
            convolution.

    Raises:
        DoesNotRunError: the model does not run on the sample.
        ConfigError: a module does not run, does not give (B, C, H, W), or has its own way with its children.
    """
    inputs = inputs_of(model, sample)
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
    parents = [module for module in names if any(True for _ in module.children())]
    probes = {module: Probe() for module in parents}
    remedy = "pass sample=, a tensor or a tuple of the model's inputs"
    with undisturbed(model), explained(f"the model does not run on the sample {shapes}", remedy, DoesNotRunError):
        outputs = run(model, names, inputs)
    if probes:
        # Apart, so that both passes begin with the same buffers and the same random state.
        with undisturbed(model), ExitStack() as cleaning:
            for module, probe in probes.items():
                module.add_module(CHILD, probe)
                cleaning.callback(module._modules.pop, CHILD, None)
            which = ", ".join(names[module] for module in parents)
            with explained(f"{which}: one of them runs its children in its own way", _OWN_WAY):
                probed = run(model, parents, inputs)
    seen = {}
    for module, name in names.items():
        reached = probes[module].reached if module in probes else []
        if reached and not _in_row(reached, probed.of[module]):
            raise ConfigError(f"{name} ({type(module).__name__}) runs its children in its own way", remedy=_OWN_WAY)
        results = outputs.of[module] or reached
        channels = _channels(name, results, outputs.features_last[module])
        seen[module] = Seen(channels, IN_ROW if reached else HOOK, len(results), results[-1].device, results[-1].dtype)
    if probes and not same(outputs.result, probed.result):
        # Looped over from outside, or counted, a container changes the network by one child more.
        suspects = [name for module, name in names.items() if module in probes and not outputs.of[module]]
        which = ", ".join(suspects or [names[module] for module in parents])
        raise ConfigError(f"{which}: the model runs its children in its own way", remedy=_OWN_WAY)
    return seen


_OWN_WAY = "choose a module within it, or the one after it"


def _in_row(reached: list[Any], given: list[Any]) -> bool:
    """Whether what a last child passes on is what its parent gives; a parent may be run through its children only."""
    return not given or (len(given) == len(reached) and all(a is b for a, b in zip(given, reached, strict=True)))


def _channels(name: str, results: list[Any], features_last: set[tuple[int, ...]]) -> int:
    if not results:
        raise ConfigError(
            f"{name} did not run on the sample",
            remedy="choose a module that the model calls, or pass a sample that reaches it",
        )
    for result in results:
        if not isinstance(result, Tensor) or result.ndim != 4:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise ConfigError(
                f"{name} gives no map", expected="a tensor (B, C, H, W)", got=got, remedy="choose another module"
            )
        if tuple(result.shape) in features_last:
            raise ConfigError(
                f"{name} gives its features last",
                expected="(B, C, H, W)",
                got=f"(B, H, W, C) = {tuple(result.shape)}",
                remedy="choose a module around it that gives channels first",
            )
    channels = {int(result.shape[1]) for result in results}
    if len(channels) > 1:
        raise ConfigError(
            f"{name} runs {len(results)} times, with different channels",
            expected="one C",
            got=sorted(channels),
            remedy="choose the modules around it",
        )
    return channels.pop()
