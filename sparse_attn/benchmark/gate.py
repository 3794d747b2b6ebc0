"""The gate: nobody is timed whose results are wrong.

A block is compared with its slow form in float64: plain operations, the same parameters, and the groups of a plain
float32 block, since rounding may change groups where two codes tie. Whole networks cannot be held to that (each of
their attentions sees what the one before it rounded), so their groups are their own and the tolerance is wider.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from sparse_attn.benchmark.cases import Case
from sparse_attn.benchmark.contenders import (
    Contender,
    autocast,
    build,
    build_block,
    build_network,
    input_of,
)
from sparse_attn.ops import Groups

# Fractions of the largest value; with bf16 and without.
TOLERANCE = {False: 5e-5, True: 3e-2}
NETWORK_TOLERANCE = {False: 1e-2, True: 5e-2}
# Scores in float64, all rounds: 1.2 GB. Larger maps are gated at the largest side within this.
_MOST_SCORES = 150_000_000
_NETWORK_SIDE = 24
# JSON has no infinity.
_NOT_FINITE = 1e30


def gated_case(contender: Contender, case: Case) -> Case:
    """The case itself, or one with a side small enough for float64."""
    if case.model is not None:
        return replace(case, batch=1, side=min(case.side, _NETWORK_SIDE))
    while case.batch * case.tokens * contender.keys(case) > _MOST_SCORES and case.side > 1:
        case = replace(case, side=case.side - 1)
    return case


def _attention_part(module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the input's gradient, both without what the residual adds to them."""
    x = x.detach().clone().requires_grad_()
    out = module(x)
    (gradient,) = torch.autograd.grad(out, x, cotangent.to(out.dtype))
    return (out - x).detach(), gradient - cotangent


def _groups(contender: Contender, case: Case, x: Tensor) -> list[Groups]:
    """The groups of a plain float32 block, in the order in which it asks for them."""
    plain = build_block(contender, case, x.device, backend="eager")
    if contender.write is not None:
        # Other writings embed in the input's memory format, whose rounding may differ from that of the block.
        queries = rearrange(plain.embed(x), "b d h w -> b (h w) d")
        return [plain.group(queries, queries, (case.side, case.side))]
    seen: list[Groups] = []

    def recorded(*arguments: Any) -> Groups:
        seen.append(type(plain).group(plain, *arguments))
        return seen[-1]

    # In the instance, where a method of that name is found before the class's.
    vars(plain)["group"] = recorded
    plain(x)
    return seen


def _expected(contender: Contender, case: Case, x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        replayed = iter(_groups(contender, case, x))
    exact = build_block(contender, case, x.device, backend="eager").double()
    vars(exact)["group"] = lambda *_: next(replayed)
    return _attention_part(exact, x.double(), cotangent.double())


def error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, as a fraction of the largest value; a huge number if the result is not finite."""
    found = float((got.double() - expected).abs().max() / expected.abs().max())
    return found if math.isfinite(found) else _NOT_FINITE


def gate(contender: Contender, case: Case, module: nn.Module, device: torch.device) -> dict[str, float]:
    """The errors of a contender, its tolerance, and the side they were measured at.

    Args:
        contender: who.
        case: where.
        module: what is to be timed.
        device: where.
    """
    small = gated_case(contender, case)
    x = input_of(small, device)
    if case.model is not None:
        return _network_gate(contender, small, x)
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(device)
    expected = _expected(contender, small, x, cotangent)
    with autocast(contender, device):
        got = _attention_part(module, x, cotangent)
    errors = {name: error(g, e) for name, g, e in zip(("output", "gradient"), got, expected, strict=True)}
    return {**errors, "tolerance": TOLERANCE[contender.bf16], "side": small.side}


def _network_gate(contender: Contender, case: Case, x: Tensor) -> dict[str, float]:
    """Against the network with the plain backend in float64, output only.

    Built anew, as a network that has been trained for a step has other parameters and draws other groups.
    """
    plain = replace(contender, settings={"backend": "eager"})
    exact = build_network(plain, case, x.device).double()
    with torch.no_grad():
        expected = exact(x.double())
        with autocast(contender, x.device):
            got = build(contender, case, x.device)(x)
    return {
        "output": error(got, expected),
        "tolerance": NETWORK_TOLERANCE[contender.bf16],
        "side": case.side,
    }


def passes(errors: dict[str, float]) -> bool:
    """Whether all errors are within the tolerance."""
    return all(errors[name] <= errors["tolerance"] for name in ("output", "gradient") if name in errors)
