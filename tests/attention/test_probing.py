"""A probe's weights are the ones the attention used: weights times values is what was added to the input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparse_attn import check, create_model, list_attention
from sparse_attn.attention import draw_counts, probe
from sparse_attn.attention.nlsa import NonLocalSparseAttention
from sparse_attn.errors import ConfigError
from tests.attention.support import assert_close, make

SIZE = (11, 13)


@pytest.mark.parametrize("name", list_attention())
@pytest.mark.parametrize("settings", [{}, {"window": (5, 7)}, {"boundary": "repeat"}, {"bucket_size": 400}])
def test_weights_times_values_is_the_output(name: str, settings: dict[str, object]) -> None:
    block = make(name, **{"bucket_size": 16, "rounds": 3, **settings}).double().train()
    x = torch.randn(2, 6, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = probe(block, x)[""]
    everyone = torch.arange(SIZE[0] * SIZE[1])
    out = found.weights(everyone) @ found.values
    with torch.no_grad():
        expected = block.eval()(x) - x
    assert_close(out.transpose(1, 2).view_as(x), expected, "float64")
    torch.testing.assert_close(found.dense_weights(everyone).sum(-1), torch.ones(2, len(everyone), dtype=x.dtype))


@pytest.mark.parametrize("name", list_attention())
def test_pixels_of_one_chunk_attend_to_one_another(name: str) -> None:
    block = make(name, bucket_size=16, rounds=2)
    found = probe(block, torch.randn(2, 6, *SIZE))[""]
    chunks = found.chunks()
    if name == "topk":
        assert chunks is None
        return
    assert chunks is not None and chunks.shape == (2, found.rounds, *SIZE)
    everyone = torch.arange(SIZE[0] * SIZE[1])
    flat = chunks.flatten(2)
    together = flat.unsqueeze(-1) == flat.unsqueeze(-2)
    assert found.counts(everyone)[together].all()


def test_codes_put_the_tokens_in_order() -> None:
    found = probe(make("nlsa", bucket_size=16, rounds=2), torch.randn(1, 6, *SIZE))[""]
    (region,) = found.regions
    assert region.codes is not None
    in_order = region.codes.gather(2, region.groups.order)
    assert (in_order.diff(dim=-1) >= 0).all()


def test_the_model_is_left_as_it_was() -> None:
    model = create_model("nlsn_light_x2", n_resblocks=2, n_feats=8, attention_at=[0, 1, 2]).train()
    model.body.eval()
    before = {name: m.training for name, m in model.named_modules()}
    state = {name: t.clone() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    found = probe(model, torch.rand(1, 3, 17, 19))
    assert list(found) == ["body.attention.0", "body.attention.1", "body.attention.2"]
    assert {name: m.training for name, m in model.named_modules()} == before
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(tensor, state[name]), name
    for block in model.modules():
        assert "group" not in vars(block) and "rotations" not in vars(block) and not block._forward_pre_hooks


def test_without_attention() -> None:
    with pytest.raises(ConfigError, match="with attention"):
        probe(nn.Conv2d(3, 3, 1), torch.rand(1, 3, 5, 5))


class CastsInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.attention = make("nlsa", bucket_size=16, rounds=2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.attention(self.conv(x)).relu_()


def test_a_model_that_casts_inside() -> None:
    model = CastsInside()
    found = probe(model, torch.rand(1, 3, *SIZE))["attention"]
    assert found.autocast is torch.bfloat16 and found.values.dtype is torch.float32
    report = check(model, torch.rand(1, 3, *SIZE))
    assert report.ok, report
    for scale in (1.0, 30.0, 1000.0):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert check(model.attention, scale * torch.randn(1, 6, *SIZE)).ok


def test_draws_are_taken_back() -> None:
    block = make("nlsa", bucket_size=16, rounds=2, rehash="always")
    probe(block, torch.rand(1, 6, *SIZE))
    assert draw_counts(block) == [0]


def test_an_attention_with_a_forward_of_its_own() -> None:
    class Alone(NonLocalSparseAttention):
        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(ConfigError, match="or none that groups by its method `group`"):
        check(Alone(6, reduction=2), torch.rand(1, 6, *SIZE))
