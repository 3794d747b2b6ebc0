"""A trained dense attention becomes sparse, with the same weights and a report of what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention import Probe, probe
from sparse_attn.attention.nla import NonLocalAttention
from sparse_attn.attention.settings import finite_number, positive_int
from sparse_attn.errors import ConfigError
from sparse_attn.surgery.conversion_report import ConversionReport, Goal
from sparse_attn.surgery.names import Where, choose, names_of
from sparse_attn.surgery.record import refuse_wrapped
from sparse_attn.surgery.trials import Candidate, make_grid
from sparse_attn.surgery.watching import undisturbed

Inputs = Tensor | tuple[Any, ...]
TARGET_MASS = 0.9


def convert_attention(
    model: nn.Module,
    to: str = "nlsa",
    *,
    calibrate: Tensor | Sequence[Inputs],
    where: Where = "*",
    bucket_size: int | Sequence[int] | None = None,
    rounds: int | Sequence[int] | None = None,
    target_mass: float | None = None,
    max_error: float | None = None,
    queries: int = 256,
    top: int = 16,
    distill: int = 0,
    lr: float = 1e-3,
    seed: int = 0,
    **settings: Any,
) -> ConversionReport:
    """Makes the dense attentions (`nla`) of a trained network sparse, in place, with the weights they have.

    On calibration images, every combination of `bucket_size` and `rounds` is compared with the dense attention, layer
    by layer, each on what the dense network gives it. Of the settings that keep `target_mass` of its weight, or whose
    output is off by no more than `max_error`, the one that compares the fewest keys is taken, each layer its own; if
    none does, the one that comes nearest while it compares fewer keys than dense attention. A single `bucket_size` and
    `rounds` are taken as they are. Dense and sparse attention are Eq. 6 of Mei, Fan, Zhou (CVPR 2021) with all tokens,
    and with those of a hash bucket, in Omega; so the weights mean the same in both.

    Args:
        model: the network; convert before compiling or wrapping it and before making its optimizer. Its mode, buffers
            and all other weights stay as they are, and so does the random state.
        to: the attention to convert to.
        calibrate: (B, C, H, W) images, or a list of such for several sizes, with a tuple in it where the model takes
            several inputs. Of the size and kind the network is for: how sparse a bucket is depends on N.
        where: which of the dense attentions, as for `swap_attention`.
        bucket_size: k, one or several to compare; by default 64, 144 and 256.
        rounds: R, likewise; by default 1, 2, 4 and 8.
        target_mass: the share of dense attention's weight to keep, 0 < target_mass <= 1; 0.9 where neither this nor
            `max_error` is given. Where attention is spread over many alike pixels, ask for `max_error` instead.
        max_error: how far the attention's output may be from that of the dense one, ||sparse - dense|| / ||dense||
            before the residual; with `target_mass` both are asked for.
        queries: so many pixels of each image are compared.
        top: how many of the heaviest keys the recall is about.
        distill: steps of Adam by which each converted attention, and nothing else, then learns to give what the dense
            one gave on the calibration images; kept where that makes it better.
        lr: the learning rate these begin with.
        seed: of the rotations, counted up from layer to layer, of the choice of pixels and of the distillation.
        settings: passed to the attention, over those kept.

    Returns:
        The report; `str()` of it is a table for each layer.

    Raises:
        ConfigError: no dense attention is meant, or one was not called; local windows that `to` does not have; a bad
            setting; no image. Then nothing has changed.
        UnknownNameError: no such attention, or no such setting of it.
    """
    refuse_wrapped(model)
    grid = make_grid(to, {"bucket_size": bucket_size, "rounds": rounds})
    goal = _goal(target_mass, max_error)
    if isinstance(distill, bool) or not isinstance(distill, int) or distill < 0:
        raise ConfigError("bad distill", expected="a number of steps, 0 or more", got=repr(distill))
    if not finite_number("lr")(lr) > 0:
        raise ConfigError("bad lr", expected="a positive number", got=lr)
    for name, value in {"queries": queries, "top": top}.items():
        positive_int(name)(value)
    images = _images(calibrate)
    with torch.random.fork_rng(devices=[]):
        layers = [
            Candidate(old, names, to, settings, seed=seed + index)
            for index, (old, names) in enumerate(_dense(model, where).items())
        ]
    with undisturbed(model):
        before = []
        for inputs in images:
            found, output = _run(model, inputs)
            before.append(output)
            for layer in layers:
                layer.measure(found, grid, queries=queries, top=top, seed=seed)
        reports = [layer.decide(grid, goal) for layer in layers]
        if distill:
            reports = [
                replace(report, distillation=layer.distilled(steps=distill, lr=lr, seed=seed))
                for layer, report in zip(layers, reports, strict=True)
            ]
    error = _exchange_all(model, layers, images, before)
    return ConversionReport(to, tuple(reports), goal, top, error)


def _goal(target_mass: float | None, max_error: float | None) -> Goal:
    if target_mass is None and max_error is None:
        target_mass = TARGET_MASS
    if target_mass is not None and not 0 < finite_number("target_mass")(target_mass) <= 1:
        raise ConfigError("bad target_mass", expected="a share, above 0 and up to 1", got=target_mass)
    if max_error is not None and not finite_number("max_error")(max_error) > 0:
        raise ConfigError("bad max_error", expected="a relative error above 0, such as 0.1", got=max_error)
    return Goal(target_mass, max_error)


def _images(calibrate: Tensor | Iterable[Inputs]) -> list[Inputs]:
    several = isinstance(calibrate, Iterable) and not isinstance(calibrate, Tensor)
    images: list[Any] = list(calibrate) if several else [calibrate]
    for image in images:
        if not isinstance(image, Tensor | tuple):
            raise ConfigError(
                "bad calibrate",
                expected="images (B, C, H, W), or tuples of the model's inputs",
                got=type(image).__name__,
                remedy="of a loader that gives [image, label], pass [image for image, _ in loader]",
            )
    if not images:
        raise ConfigError("no image to calibrate with", remedy="pass some that the network is for")
    return images


def _dense(model: nn.Module, where: Where) -> dict[NonLocalAttention, list[str]]:
    names = names_of(model)
    found: dict[nn.Module, list[str]] = {m: own for m, own in names.items() if isinstance(m, NonLocalAttention)}
    if not found:
        raise ConfigError(
            "no dense attention to convert",
            expected="nla below the model",
            got=type(model).__name__,
            remedy="swap_attention(model, where, 'nla') makes other attentions dense",
        )
    chosen = choose(found, where, below=True)
    return {module: own for module, own in chosen.items() if isinstance(module, NonLocalAttention)}


def _run(model: nn.Module, inputs: Inputs) -> tuple[dict[str, Probe], Any]:
    """What the attentions do, and what the model returns."""
    outputs: list[Any] = []
    hook = model.register_forward_hook(lambda _model, _args, output: outputs.append(output))
    try:
        found = probe(model, *(inputs if isinstance(inputs, tuple) else (inputs,)))
    finally:
        hook.remove()
    return found, outputs[-1]


def _exchange_all(
    model: nn.Module, layers: Sequence[Candidate], images: Sequence[Inputs], before: Sequence[Any]
) -> float | None:
    """Puts the new attentions in place, if the model then runs; how far its output is from what it was."""
    for layer in layers:
        layer.exchange.commit(model)
    try:
        with undisturbed(model):
            after = [model(*(inputs if isinstance(inputs, tuple) else (inputs,))) for inputs in images]
    except BaseException:
        for layer in layers:
            layer.exchange.undo(model)
        raise
    return _difference(before, after)


def _difference(before: Sequence[Any], after: Sequence[Any]) -> float | None:
    if not all(isinstance(output, Tensor) for output in [*before, *after]):
        return None
    off = sum(float((b.double() - a.double()).square().sum()) for b, a in zip(before, after, strict=True))
    whole = sum(float(b.double().square().sum()) for b in before)
    return 0.0 if off == 0 else math.sqrt(off / whole) if whole else math.inf
