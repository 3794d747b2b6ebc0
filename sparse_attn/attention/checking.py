"""Is an attention right, and how far is it from dense attention? Asked of every attention of a model on one input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.check_report import CheckReport, LayerCheck
from sparse_attn.attention.health import health, in_blocks, in_float64, sample_tokens
from sparse_attn.attention.probing import Probe, casting, probe
from sparse_attn.attention.randomness import draw_counts, restore_draws
from sparse_attn.attention.registration import attentions
from sparse_attn.ops import Buckets
from sparse_attn.ops.backends import choose

# Of the largest output of the attention; rounding of large scores is added to it.
_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


def check(
    model: nn.Module, *inputs: Any, queries: int = 256, top: int = 16, seed: int = 0, quiet: bool = False
) -> CheckReport:
    """Compares every attention of a model with its slow twin and with dense attention, on one input, and prints that.

    For each attention, on the input it gets within the model: what it returns equals Eq. 6 written out, query by query,
    in float64; constant values stay that constant; numbers are finite; groups are sets of pixels. And, of dense
    attention with the same weights: how much is kept.

    Args:
        model: an attention, or a module that contains some. It is run in evaluation mode, without gradients, and left
            as it was.
        inputs: of the model.
        queries: so many pixels of each image are compared; all where there are no more.
        top: of the heaviest keys of dense attention that are looked for.
        seed: of the choice of pixels.
        quiet: print nothing.

    Returns:
        The verdict as data; `str()` of it is what is printed, a line for each attention.

    Raises:
        ConfigError: no attention in the model, or none was called.
    """
    calls: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    draws = draw_counts(model)
    try:
        with _watching(model, calls):
            found = probe(model, *inputs)
        layers = tuple(
            _check_layer(name, one, calls[one.attention], queries=queries, top=top, seed=seed)
            for name, one in found.items()
        )
    finally:
        restore_draws(model, draws)
    names = [name for name, module in model.named_modules() if isinstance(module, Attention2d)]
    report = CheckReport(layers, tuple(name for name in names if name not in found))
    if not quiet:
        print(report)  # noqa: T201 - it is a question that a person asks, so the answer is to be seen
    return report


def describe(block: Attention2d) -> str:
    """An attention in a few words: `nlsa 4 rounds of 144`."""
    name = next((n for n in attentions if attentions.get(n) is type(block)), type(block).__name__)
    own = {setting: getattr(block, setting) for setting in block.settings}
    words = [name]
    if "rounds" in own:
        words.append(f"{own['rounds']} round{'s' if own['rounds'] > 1 else ''}")
    if "bucket_size" in own:
        words.append(f"of {own['bucket_size']}")
    if own.get("window"):
        words.append("in windows of {}x{}".format(*own["window"]))
    return " ".join(words)


def _check_layer(
    name: str, found: Probe, call: tuple[Tensor, Tensor], *, queries: int, top: int, seed: int
) -> LayerCheck:
    block, (x, out) = found.attention, call
    error = tolerance = torch.nan
    faults, measured = [], None
    if not x.isfinite().all():
        faults.append("the input is not finite")
    elif not out.isfinite().all():
        faults.append("the output is not finite")
    elif not _groups_are_sets(found):
        faults.append("its groups do not hold every pixel once")
    else:
        sample = sample_tokens(found, queries, seed=seed)
        error, tolerance = _error(found, x, out, sample)
        if not error <= tolerance:
            faults.append(f"off by {error:.1e} where {tolerance:.0e} is allowed")
        limit = _tolerance(out, found) + 4 * torch.finfo(out.dtype).eps * (1 + float(x.abs().max()))
        away = float((_with_constant_values(found, x) - x - block.res_scale).abs().max())
        if not away <= limit * max(1.0, abs(block.res_scale)):
            faults.append(f"constant values change by {away:.1e}")
        measured = health(found, queries=queries, top=top, seed=seed)
    return LayerCheck(
        name=name,
        attention=describe(block),
        backend=_backend(found, x),
        size=found.size,
        faults=tuple(faults),
        error=error,
        tolerance=tolerance,
        health=measured,
        top=top,
    )


def _error(found: Probe, x: Tensor, out: Tensor, sample: Tensor) -> tuple[float, float]:
    """The largest difference to the slow twin, and how large it may be, relative to the largest number of the output.

    What rounding does is relative to the attention, before the residual, and grows with the scores.
    """
    exact = in_float64(found)
    attended = torch.cat([exact.weights(some) @ exact.values for some in in_blocks(sample, found)], dim=1)
    attended *= found.attention.res_scale
    before, after = (t.flatten(2)[:, :, sample.to(t.device)].transpose(1, 2).cpu().double() for t in (x, out))
    expected = before + attended
    largest = float(expected.abs().max())
    if largest == 0:
        return float((after - expected).abs().max()), _tolerance(out, found)
    steepest = float(exact.queries[:, sample].norm(dim=-1).max() * exact.keys.norm(dim=-1).max())
    # The scores are rounded to what the products run in, the sum with the residual to the output's dtype.
    inner, outer = (torch.finfo(dtype).eps for dtype in (found.autocast or out.dtype, out.dtype))
    allowed = (_tolerance(out, found) + max(inner, outer) * steepest) * float(attended.abs().max())
    allowed += 4 * outer * largest
    return float((after - expected).abs().max()) / largest, allowed / largest


def _tolerance(out: Tensor, found: Probe) -> float:
    """By the dtype that was computed in: the output's, or autocast's if that is narrower."""
    return max(_TOLERANCES.get(dtype, _TOLERANCES[torch.float32]) for dtype in (out.dtype, found.autocast or out.dtype))


def _groups_are_sets(found: Probe) -> bool:
    """Every order is a permutation of the tokens, and no list names a key twice."""
    for region in found.regions:
        n = region.pixels.shape[1]
        if isinstance(region.groups, Buckets):
            order = region.groups.order
            if order is not None and not torch.equal(order.sort(-1).values, torch.arange(n).expand_as(order)):
                return False
        else:
            keys = region.groups.index.sort(-1).values
            if keys.min() < 0 or keys.max() >= n or not keys.diff(dim=-1).all():
                return False
    return True


def _with_constant_values(found: Probe, x: Tensor) -> Tensor:
    """What the block gives where every value is 1."""
    block = found.attention
    training = [module for module in block.modules() if module.training]
    hook = block.value.register_forward_hook(lambda _module, _args, values: torch.ones_like(values))
    try:
        with torch.no_grad(), casting(x, found.autocast):
            return cast(Tensor, block.eval()(x))
    finally:
        hook.remove()
        for module in training:
            module.training = True


def _backend(found: Probe, x: Tensor) -> str:
    block, region = found.attention, found.regions[0]
    q, k, v = (
        t[:, region.pixels[0]].to(x.device, convolution.weight.dtype)
        for t, convolution in ((found.queries, block.embed), (found.keys, block.embed), (found.values, block.value))
    )
    return choose(q, k, v, region.groups, cast(str, block.backend))[0]


@contextmanager
def _watching(model: nn.Module, calls: dict[nn.Module, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Keeps what each attention is given and returns."""

    def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        # Copies, as the network may go on in place.
        calls[block] = (next(iter([*args, *kwargs.values()])).detach().clone(), out.detach().clone())

    blocks = [module for module in model.modules() if isinstance(module, Attention2d)]
    hooks = [block.register_forward_hook(keep, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
