"""The four rooms every attention consists of: embed, group, attend, merge, and the residual around them.

Mei, Fan, Zhou, "Image Super-Resolution with Non-Local Sparse Attention", CVPR 2021. All attentions compute Eq. 6,
out_i = sum over j in Omega_i of softmax_j(theta(x_i) . phi(x_j)) g(x_j), and differ in Omega only: the method `group`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from sparse_attn.attention.settings import finite_number, positive_int
from sparse_attn.errors import ConfigError, unknown_name
from sparse_attn.ops import Groups, attend, over_windows
from sparse_attn.ops.backends import check_backend, native, symbolic
from sparse_attn.ops.grouping import is_symbolic, varies
from sparse_attn.ops.windows import Size

KEY_NORM_EPS = 5e-5


class Attention2d(nn.Module, ABC):
    """Abstract 2D attention block: (B, C, H, W) in, the same shape out, residual included.

    A subclass says who may attend to whom (`group`) and which of its settings may change later (`settings`).

    Args:
        channels: C.
        reduction: queries and keys are D = C // reduction wide.
        embed_kernel: side of the query and key convolution, odd.
        shared_qk: one embedding for queries and keys (theta = phi, as in the paper); False learns `query` apart.
        normalize_keys: keys are divided by max(norm, 5e-5); queries never are, and no softmax scale is applied.
        res_scale: factor on the attention before it is added to the input.
        zero_init: start as the identity (the value projection is zero), for insertion into a trained network.
        backend: `auto` or the name of a backend.

    Raises:
        ConfigError: a bad value.
    """

    settings: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"backend": check_backend}
    """Settings that `configure` may change after construction, each with the function that checks it."""

    window: Size | None = None
    """(h, w) of the local windows that attention is confined to, or None. One that holds N tokens is the image."""

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 4,
        embed_kernel: int = 3,
        shared_qk: bool = True,
        normalize_keys: bool = True,
        res_scale: float = 1.0,
        zero_init: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        width = positive_int("channels")(channels) // positive_int("reduction")(reduction)
        if width < 1:
            raise ConfigError(
                "no channels are left for queries and keys",
                expected="channels >= reduction",
                got=f"channels={channels}, reduction={reduction}",
                remedy=f"use reduction={channels} or less",
            )
        if positive_int("embed_kernel")(embed_kernel) % 2 == 0:
            raise ConfigError("bad embed_kernel", expected="an odd number", got=embed_kernel)
        self.channels, self.normalize_keys = channels, normalize_keys
        self.res_scale = finite_number("res_scale")(res_scale)
        self.embed = nn.Conv2d(channels, width, embed_kernel, padding=embed_kernel // 2)
        self.query = None if shared_qk else nn.Conv2d(channels, width, embed_kernel, padding=embed_kernel // 2)
        self.value = nn.Conv2d(channels, channels, 1)
        self.configure(backend=backend)
        if zero_init:
            self.zero_init_()

    def zero_init_(self) -> None:
        """Makes the block the identity, by a zero value projection."""
        nn.init.zeros_(self.value.weight)
        if self.value.bias is not None:
            nn.init.zeros_(self.value.bias)

    def configure(self, **settings: Any) -> None:
        """Changes settings after construction; nothing changes if one of them is bad.

        Raises:
            UnknownNameError: a setting this attention does not have.
            ConfigError: a bad value.
        """
        for name in settings:
            if name not in self.settings:
                raise unknown_name(f"setting of {type(self).__name__}", name, self.settings)
        checked = {name: self.settings[name](value) for name, value in settings.items()}
        for name, value in checked.items():
            setattr(self, name, value)

    @abstractmethod
    def group(self, queries: Tensor, keys: Tensor, size: Size) -> Groups:
        """Who may attend to whom.

        Args:
            queries: (B, N, D), not normalised.
            keys: (B, N, D), normalised unless `normalize_keys` is False.
            size: (H, W) of the map, or of the window, that the N tokens are the row-major pixels of.
        """

    def sees_all(self, tokens: int) -> bool:
        """Whether `group` always lets N = `tokens` tokens attend to all of them.

        Asked where windows of that many tokens go into one graph for all image sizes, which takes this.
        """
        return False

    def embed_tokens(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, H, W) -> queries and keys (B, D, H, W), values (B, C, H, W).

        Queries and keys are computed outside autocast: rounded to bf16 they would change buckets.
        """
        # The pixels of a channels_last map are rows of tokens, and on a CPU its convolutions are the fastest.
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            precise = x.to(self.embed.weight.dtype)
            embedded = self.embed(precise)
            queries = embedded if self.query is None else self.query(precise)
            keys = F.normalize(embedded, dim=1, eps=KEY_NORM_EPS) if self.normalize_keys else embedded
        return queries, keys, self.value(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W): x + res_scale * attention(x).

        Raises:
            ConfigError: `x` is not (B, C, H, W) with this block's C and at least one pixel.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or 0 in x.shape:
            raise ConfigError(
                f"{type(self).__name__} cannot take this input",
                expected=f"(B, {self.channels}, H, W) with at least one pixel",
                got=tuple(x.shape),
                remedy="check the layout and the number of channels",
            )
        queries, keys, values = self.embed_tokens(x)
        height, width = x.shape[2:]
        one_graph = self.window is not None and self._is_one_graph(self.window, height * width)
        if self.window is None or one_graph or self.window[0] * self.window[1] >= height * width:
            tokens = [rearrange(t, "b c h w -> b (h w) c") for t in (queries, keys, values)]
            attend_tokens = self._attend_symbolic_windows if one_graph else self._attend_tokens
            out = attend_tokens(tokens[0], tokens[1], tokens[2], (height, width))
            out = rearrange(out, "b (h w) c -> b c h w", h=height)
        else:
            out = over_windows(self._attend_tokens, queries, keys, values, self.window)
        return self._add_residual(x, out)

    def _add_residual(self, x: Tensor, out: Tensor) -> Tensor:
        """The sum x + res_scale * out, in the layout of x."""
        two_layouts = out.dtype == x.dtype and x.is_contiguous() and not out.is_contiguous()
        if two_layouts and native.helps(cast(str, self.backend), x, out):
            return native.add_tokens(x, rearrange(out, "b c h w -> b (h w) c"), self.res_scale)
        if two_layouts:
            # Two layouts in one sum are slow; and the copy is nobody else's, so the sum goes into it.
            out = out.contiguous()
            return (out if self.res_scale == 1.0 else out.mul_(self.res_scale)).add_(x)
        return torch.add(x, out, alpha=self.res_scale)

    def _attend_tokens(self, queries: Tensor, keys: Tensor, values: Tensor, size: Size) -> Tensor:
        groups = self.group(queries, keys, size)
        return attend(queries, keys, values, groups, backend=cast(str, self.backend))

    def _is_one_graph(self, window: Size, tokens: int) -> bool:
        """Whether the windows of maps of all sizes are to be, and can be, one graph.

        Raises:
            ConfigError: they are to be, as the graph is being exported, but attention in them is not dense.
        """
        if not varies(tokens):
            return False
        dense = self.sees_all(window[0] * window[1])
        if not dense and is_symbolic(tokens):
            raise ConfigError(
                f"{type(self).__name__} in windows cannot be exported for every size",
                expected="dense attention in the windows, as of nla and local_window",
                got=f"window={window}",
                remedy="configure_attention(model, window=None), or for one size torch.export.export(model, (x,))",
            )
        return dense

    def _attend_symbolic_windows(self, queries: Tensor, keys: Tensor, values: Tensor, size: Size) -> Tensor:
        return symbolic.attend_windows(queries, keys, values, size, cast(Size, self.window))

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        shown = {"channels": self.channels, **{name: getattr(self, name) for name in self.settings}}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
