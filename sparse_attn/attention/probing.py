"""What the attentions of a model do on an input: who was grouped with whom, and how much weight each key got.

Measured on the groups the forward pass really drew, and compared with dense attention of the same queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from sparse_attn.attention.base import Attention2d
from sparse_attn.attention.nlsa import NonLocalSparseAttention
from sparse_attn.attention.randomness import draw_counts, restore_draws
from sparse_attn.errors import ConfigError
from sparse_attn.ops import Buckets, Groups, over_windows
from sparse_attn.ops.attended import attended_counts, attention_weights, chunk_of
from sparse_attn.ops.windows import Size


@dataclass(frozen=True)
class Region:
    """Tokens that were grouped together: a whole feature map, or all its windows of one size.

    Args:
        pixels: (W', n) int64, the token of the map that each token of each window is; W' = 1 without windows.
        groups: of a batch of B·W', windows fastest.
        codes: (B·W', R, n) hash codes, where there are any.
    """

    pixels: Tensor
    groups: Groups
    codes: Tensor | None


@dataclass(frozen=True)
class Probe:
    """One call of one attention.

    Args:
        attention: the module.
        inputs: (B, C, H, W), what it was given.
        queries: (B, N, D), not normalised.
        keys: (B, N, D), normalised unless the attention leaves them as they are.
        values: (B, N, C).
        regions: what was grouped.
        autocast: the dtype of the autocast it was called under, or None.
    """

    attention: Attention2d
    inputs: Tensor
    queries: Tensor
    keys: Tensor
    values: Tensor
    regions: tuple[Region, ...]
    autocast: torch.dtype | None = None

    @property
    def size(self) -> Size:
        """(H, W) of the feature map; token y·W + x is the pixel (x, y)."""
        return self.inputs.shape[2], self.inputs.shape[3]

    @property
    def rounds(self) -> int:
        """R; 1 where dense attention makes all rounds the same."""
        return max(_rounds(region.groups) for region in self.regions)

    def counts(self, queries: Tensor) -> Tensor:
        """How often each of some queries meets each key: (Q,) tokens -> (B, R, Q, N) int16."""
        batch, tokens, _ = self.queries.shape
        found = torch.zeros((batch, self.rounds, len(queries), tokens), dtype=torch.int16)
        for region in self.regions:
            windows, n = region.pixels.shape
            for window, pixels in enumerate(region.pixels):
                rows, local = (queries.unsqueeze(1) == pixels).nonzero(as_tuple=True)
                if len(rows):
                    counts = attended_counts(region.groups, n, local, batch=batch * windows)
                    mine = counts.unflatten(0, (batch, windows))[:, window]
                    found[:, : mine.shape[1], rows.unsqueeze(1), pixels] = mine
        return found

    def weights(self, queries: Tensor) -> Tensor:
        """The attention weights of some queries: (Q,) tokens -> (B, Q, N), zero for keys that were not attended to."""
        return attention_weights(self.queries[:, queries], self.keys, self.counts(queries).sum(1))

    def dense_weights(self, queries: Tensor) -> Tensor:
        """The weights that dense attention would have given them: (Q,) tokens -> (B, Q, N)."""
        return (self.queries[:, queries] @ self.keys.transpose(1, 2)).softmax(dim=-1)

    def chunks(self) -> Tensor | None:
        """The chunk of each pixel in each round, (B, R, H, W), numbered over all windows; None for lists of keys."""
        height, width = self.size
        found = torch.zeros((len(self.inputs), self.rounds, height * width), dtype=torch.int64)
        first = 0
        for region in self.regions:
            if not isinstance(region.groups, Buckets):
                return None
            windows, n = region.pixels.shape
            own = chunk_of(region.groups, n).expand(len(self.inputs) * windows, -1, -1)
            own = rearrange(own, "(b w) r n -> b r w n", w=windows)
            count = region.groups.chunks(n)
            found[:, : own.shape[1], region.pixels] = own + first + count * torch.arange(windows).unsqueeze(1)
            first += count * windows
        return rearrange(found, "b r (h w) -> b r h w", h=height)


def probe(model: nn.Module, *inputs: Any) -> dict[str, Probe]:
    """Runs a model once and says what each of its attentions did.

    The model is run in evaluation mode, without gradients, and left as it was. An attention that is called several
    times is reported for its last call, one that is not called is left out.

    Args:
        model: an attention, or a module that contains some.
        inputs: of the model.

    Returns:
        The dotted name of each attention to its `Probe`, in module order; all tensors are on the CPU, in float32 or,
        for a float64 model, float64.

    Raises:
        ConfigError: no attention in the model, or none was called.
    """
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, Attention2d)}
    if not blocks:
        raise ConfigError("nothing to look at", expected="a model with attention", got=type(model).__name__)
    recorders = {name: _Recorder(block) for name, block in blocks.items()}
    draws = draw_counts(model)
    try:
        with _evaluating(model), torch.no_grad(), _recording(list(recorders.values())):
            model(*inputs)
            found = {name: recorder.result() for name, recorder in recorders.items() if recorder.calls}
    finally:
        restore_draws(model, draws)
    if not found:
        raise ConfigError(
            "no attention was called, or none that groups by its method `group`",
            got=", ".join(blocks) or type(model).__name__,
            remedy="check the inputs",
        )
    return found


class _Recorder:
    """Stands before an attention and its `group` and `rotations` while a model runs."""

    def __init__(self, block: Attention2d) -> None:
        self.block = block
        self.inputs: Tensor | None = None
        self.autocast: torch.dtype | None = None
        self.calls: list[tuple[Groups, Tensor | None]] = []
        self.rotations: list[Tensor] = []

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        # A network may change it in place afterwards.
        self.inputs = next(iter([*args, *kwargs.values()])).clone()
        kind = self.inputs.device.type
        self.autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        self.calls = []

    def group(self, queries: Tensor, keys: Tensor, size: Size) -> Groups:
        self.rotations.clear()
        groups = type(self.block).group(self.block, queries, keys, size)
        codes = None
        if isinstance(self.block, NonLocalSparseAttention) and self.rotations:
            codes = self.block.codes(queries, self.rotations[-1])
        self.calls.append((groups, codes))
        return groups

    def rotate(self, width: int, half: int, like: Tensor) -> Tensor:
        assert isinstance(self.block, NonLocalSparseAttention)
        self.rotations.append(type(self.block).rotations(self.block, width, half, like))
        return self.rotations[-1]

    def result(self) -> Probe:
        assert self.inputs is not None
        x = self.inputs
        with casting(x, self.autocast):
            maps = self.block.embed_tokens(x)
        queries, keys, values = (_plain(rearrange(t, "b c h w -> b (h w) c")) for t in maps)
        regions = tuple(
            Region(pixels, _on_cpu(groups), None if codes is None else codes.cpu())
            for pixels, (groups, codes) in zip(self._pixels(x), self.calls, strict=True)
        )
        return Probe(self.block, _plain(x), queries, keys, values, regions, self.autocast)

    def _pixels(self, x: Tensor) -> list[Tensor]:
        """What `forward` cut the map into, by cutting a map of numbers in the same way."""
        height, width = x.shape[2:]
        numbers = torch.arange(height * width).view(1, 1, height, width)
        window = self.block.window
        if window is None or window[0] * window[1] >= height * width:
            return [numbers.view(1, -1)]
        found: list[Tensor] = []

        def take(q: Tensor, _k: Tensor, _v: Tensor, _size: Size) -> Tensor:
            found.append(q.squeeze(-1))
            return q

        over_windows(take, numbers, numbers, numbers, window)
        return found


def casting(x: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast on the device of x, off for None: what a module within the model was called under."""
    return torch.autocast(x.device.type, dtype, enabled=dtype is not None)


@contextmanager
def _recording(recorders: list[_Recorder]) -> Iterator[None]:
    hooks = [r.block.register_forward_pre_hook(r.begin, with_kwargs=True) for r in recorders]
    replaced: list[tuple[Attention2d, str]] = []

    def replace(block: Attention2d, name: str, by: Callable[..., Any]) -> None:
        block.__dict__[name] = by
        replaced.append((block, name))

    try:
        for recorder in recorders:
            replace(recorder.block, "group", recorder.group)
            if isinstance(recorder.block, NonLocalSparseAttention):
                replace(recorder.block, "rotations", recorder.rotate)
        yield
    finally:
        for block, name in replaced:
            del block.__dict__[name]
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _rounds(groups: Groups) -> int:
    return 1 if not isinstance(groups, Buckets) or groups.order is None else groups.order.shape[1]


def _plain(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64 if x.dtype == torch.float64 else torch.float32)


def _on_cpu(groups: Groups) -> Groups:
    if not isinstance(groups, Buckets):
        return type(groups)(groups.index.cpu())
    order = None if groups.order is None else groups.order.cpu()
    return Buckets(order, groups.bucket_size, groups.neighbors, groups.boundary)
