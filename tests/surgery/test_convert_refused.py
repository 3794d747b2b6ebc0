"""What cannot be converted is said before anything has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparse_attn.attention import Attention2d
from sparse_attn.attention.nla import NonLocalAttention
from sparse_attn.errors import ConfigError, SparseAttnError, UnknownNameError
from sparse_attn.surgery.convert import convert_attention
from tests.attention.support import make
from tests.surgery.dense import SMALL, assert_same, everything, images, network


class Particular(nn.Module):
    """Works with dense attention only, which shows when it is run after the exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.idle = make("nla"), make("nla")

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(self.first, NonLocalAttention):
            raise ValueError("not what I was built with")
        return self.first(x)


REFUSALS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], type[Exception], str]] = {
    "no dense one": (lambda: nn.Sequential(make("nlsa")), {}, ConfigError, "no dense attention"),
    "the model itself": (lambda: make("nla"), {}, ConfigError, "no dense attention"),
    "no match": (network, {"where": "body.*"}, ConfigError, "no module matches"),
    "to dense": (network, {"to": "nla"}, ConfigError, "is dense"),
    "to nowhere": (network, {"to": "nlsb"}, UnknownNameError, "nlsa"),
    "windows": (lambda: network(window=5), {"to": "topk"}, ConfigError, "within windows"),
    "no rounds": (network, {"to": "topk", "rounds": 2}, UnknownNameError, "rounds"),
    "bad rounds": (network, {"rounds": (1, 0)}, ConfigError, "rounds"),
    "no bucket": (network, {"bucket_size": ()}, ConfigError, "no bucket_size to measure"),
    "target": (network, {"target_mass": 90}, ConfigError, "target_mass"),
    "no target": (network, {"target_mass": "most"}, ConfigError, "target_mass"),
    "error": (network, {"max_error": 0}, ConfigError, "bad max_error, expected a relative error above 0"),
    "steps": (network, {"distill": -1}, ConfigError, "distill"),
    "rate": (network, {"lr": 0}, ConfigError, "bad lr"),
    "queries": (network, {"queries": 0}, ConfigError, "queries"),
    "images": (network, {"calibrate": []}, ConfigError, "no image"),
    "nothing": (network, {"calibrate": None}, ConfigError, "bad calibrate, expected images .* got NoneType"),
    "not finite": (
        network,
        {"calibrate": [*images(), torch.full((1, 3, 7, 5), torch.nan, dtype=torch.float64)]},
        ConfigError,
        "2 has numbers that are not finite on the calibration images",
    ),
    "setting": (network, {"neighbours": 1}, UnknownNameError, "neighbors"),
    "width": (network, {"reduction": 3}, ConfigError, "cannot take over the weights"),
    "unused": (Particular, {"where": "idle", "calibrate": torch.rand(1, 6, 5, 7)}, ConfigError, "idle was not called"),
    "afterwards": (Particular, {"where": "first", "calibrate": torch.rand(1, 6, 5, 7)}, ValueError, "built with"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_all_or_nothing(case: str) -> None:
    build, wanted, error, message = REFUSALS[case]
    model = build()
    attentions = [module for module in model.modules() if isinstance(module, Attention2d)]
    before = everything(model)
    with pytest.raises(error, match=message) as raised:
        convert_attention(model, **{"calibrate": images(), **SMALL, **wanted} if case not in ("windows", "no rounds")
                          else {"calibrate": images(), **wanted})  # fmt: skip
    assert isinstance(raised.value, SparseAttnError) or case == "afterwards"
    assert_same(before, everything(model))
    assert attentions == [module for module in model.modules() if isinstance(module, Attention2d)]
