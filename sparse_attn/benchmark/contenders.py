"""The contenders: each a way to compute a block or a network, built by name from the same seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from sparse_attn.attention import Attention2d, attentions, configure_attention, create_attention
from sparse_attn.benchmark.baselines import Written, authors, dense_naive, dense_sdpa
from sparse_attn.benchmark.cases import Case
from sparse_attn.errors import unknown_name
from sparse_attn.factory import create_model
from sparse_attn.ops import KeyLists
from sparse_attn.ops.backends import BACKENDS

SEED = 0
_FALLS_BACK = "falls back"
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Contender:
    """How something is computed.

    Args:
        name: its name.
        attention: the registered attention that it computes.
        settings: of the attention.
        write: another writing of it, see `baselines`.
        bf16: whether it runs under bf16 autocast; a network in channels_last too.
        compiled: whether it goes through `torch.compile`.
        every_pair: whether its cost grows with N squared.
        scores: how many tensors of all its scores it holds at once, about.
    """

    name: str
    attention: str = "nlsa"
    settings: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[..., Tensor] | None = None
    bf16: bool = False
    compiled: bool = False
    every_pair: bool = False
    scores: int = 0

    def keys(self, case: Case) -> int:
        """How many keys a query is compared with, in all rounds."""
        seen = min(3 * case.bucket_size, case.tokens)
        return case.tokens if self.every_pair else seen * (case.rounds if self.attention == "nlsa" else 1)

    def flops(self, case: Case) -> float:
        """Of the two products of a block's forward pass, padding aside; the four of the backward pass are twice that.

        What recomputes scores does more, and gets no credit for it.
        """
        width = max(1, case.channels // 4)
        return 2.0 * case.batch * case.tokens * self.keys(case) * (width + case.channels)

    def score_bytes(self, case: Case) -> float:
        """Of the scores that it holds at once, in float32."""
        return 4.0 * case.batch * case.tokens * self.keys(case) * self.scores


_ALL = [
    Contender(name="authors", settings={"boundary": "repeat"}, write=authors, scores=4),
    Contender(name="eager", settings={"backend": "eager"}, scores=3),
    Contender(name="eager bf16", settings={"backend": "eager"}, bf16=True, scores=3),
    Contender(name="eager compiled", settings={"backend": "eager"}, compiled=True, scores=3),
    Contender(name="blocked", settings={"backend": "blocked"}),
    Contender(name="blocked bf16", settings={"backend": "blocked"}, bf16=True),
    Contender(name="native", settings={"backend": "native"}),
    Contender(name="native bf16", settings={"backend": "native"}, bf16=True),
    Contender(name="triton", settings={"backend": "triton"}),
    Contender(name="triton bf16", settings={"backend": "triton"}, bf16=True),
    Contender(name="dense naive", attention="nla", write=dense_naive, every_pair=True, scores=4),
    Contender(name="dense sdpa", attention="nla", write=dense_sdpa, every_pair=True),
    Contender(name="nla", attention="nla", every_pair=True),
    Contender(name="network eager", settings={"backend": "eager"}),
    Contender(name="network auto"),
    Contender(name="network auto bf16", bf16=True),
    Contender(name="training eager bf16", settings={"backend": "eager"}, bf16=True),
    Contender(name="training auto bf16", bf16=True),
]
CONTENDERS = {contender.name: contender for contender in _ALL}


def find(name: str) -> Contender:
    """The contender of this name; any registered attention is one under its own.

    Raises:
        UnknownNameError: no such contender.
    """
    if name in CONTENDERS:
        return CONTENDERS[name]
    if name not in attentions:
        raise unknown_name("contender", name, [*CONTENDERS, *attentions])
    listed = _lists_keys(name)
    return Contender(name=name, attention=name, every_pair=listed, scores=3 * listed)


@cache
def _lists_keys(name: str) -> bool:
    """Whether an attention gives each query keys of its own, for which all scores are computed."""
    block = create_attention(name, 8)
    if "bucket_size" in block.settings:
        # So few that the groups cannot be dense.
        block.configure(bucket_size=4)
    tokens = torch.zeros(1, 16, 2)
    return isinstance(block.group(tokens, tokens, (4, 4)), KeyLists)


def build_block(contender: Contender, case: Case, device: torch.device, **settings: Any) -> Attention2d:
    """The attention in evaluation mode, with the seed's parameters, whichever attention it is.

    Args:
        contender: whose attention and settings.
        case: whose C, R and k, where the attention has them.
        device: where.
        settings: instead of the contender's.
    """
    torch.manual_seed(SEED)
    parameters = create_attention("nla", case.channels).state_dict()
    block = create_attention(contender.attention, case.channels)
    wanted = {"rounds": case.rounds, "bucket_size": case.bucket_size, **contender.settings, **settings}
    block.configure(**{name: value for name, value in wanted.items() if name in block.settings})
    block.load_state_dict(parameters)
    return block.to(device).eval()


def build_network(contender: Contender, case: Case, device: torch.device) -> nn.Module:
    """The network with the seed's parameters, in evaluation mode unless the case is of training."""
    assert case.model is not None
    torch.manual_seed(SEED)
    toy: dict[str, Any] = {
        "n_resblocks": 1,
        "n_feats": case.channels,
        "attention_at": (0,),
        "attention_kwargs": {"rounds": case.rounds, "bucket_size": case.bucket_size},
    }
    model = create_model(case.model, device=device, **(toy if case.tiny else {}))
    if contender.settings:
        configure_attention(model, **contender.settings)
    return model.train(case.training)


def build(contender: Contender, case: Case, device: torch.device) -> nn.Module:
    """What is timed, autocast aside."""
    if case.model is not None:
        model = build_network(contender, case, device)
        return model.to(memory_format=torch.channels_last) if contender.bf16 else model
    block = build_block(contender, case, device)
    module: nn.Module = block if contender.write is None else Written(block, contender.write).eval()
    if contender.compiled:
        # Compiled in place, for the shapes it meets: a second shape is another compilation, not a general one.
        module.compile(dynamic=False)
    return module


def autocast(contender: Contender, device: torch.device) -> torch.autocast:
    """bf16, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=contender.bf16)


def why_not(contender: Contender, case: Case, device: torch.device, rate: float, free: int, limit: float) -> str | None:
    """Why a contender is left out of a case, or None.

    Args:
        contender: who.
        case: where.
        device: on what.
        rate: operations a second that the machine's matmul reaches.
        free: bytes.
        limit: seconds that a forward and backward pass may take at that rate.
    """
    if case.model is not None:
        return None
    needed = contender.score_bytes(case)
    if needed > free:
        return f"its scores would take {needed / _GIB:.0f} GiB, {free / _GIB:.0f} are free"
    seconds = 3 * contender.flops(case) / rate
    if seconds > limit:
        return f"a forward and backward pass would take {seconds:.0f} s at the machine's matmul rate, or more"
    if case.tokens < case.bucket_size and contender.name == "authors":
        return "the authors' code needs as many tokens as a bucket holds"
    backend = contender.settings.get("backend")
    if backend is None:
        return None
    return f"no backend {backend!r}" if backend not in BACKENDS else _fallback(contender.name, device.type)


@cache
def _fallback(name: str, device: str) -> str | None:
    """What the package warns of when a backend cannot run here, tried on a few pixels."""
    contender, case, where = find(name), Case(channels=8, side=12, rounds=1, bucket_size=16), torch.device(device)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad(), autocast(contender, where):
        warnings.simplefilter("always")
        build_block(contender, case, where)(torch.zeros(1, case.channels, case.side, case.side, device=where))
    reasons = [str(warning.message) for warning in caught if _FALLS_BACK in str(warning.message)]
    return reasons[0] if reasons else None


def input_of(case: Case, device: torch.device) -> Tensor:
    """(B, C, H, W) seeded noise; of a network (B, 3, H, W)."""
    noise = partial(torch.randn, generator=torch.Generator().manual_seed(SEED))
    return noise(case.batch, case.channels if case.model is None else 3, case.side, case.side).to(device)
