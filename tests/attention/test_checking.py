"""`check` calls every attention of the zoo right, and finds each way of breaking one."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from sparse_attn import create_model, list_attention
from sparse_attn.attention import draw_counts
from sparse_attn.attention.checking import check, describe
from sparse_attn.attention.local_window import LocalWindowAttention
from sparse_attn.attention.nlsa import NonLocalSparseAttention
from sparse_attn.errors import ConfigError
from sparse_attn.ops import Buckets, Groups, KeyLists, reference
from sparse_attn.ops.backends import blocked
from tests.attention.support import make

SIZE = (11, 13)


def photo(channels: int = 6, dtype: torch.dtype = torch.float64, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("name", list_attention())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_zoo_is_right(name: str, dtype: torch.dtype) -> None:
    report = check(make(name, bucket_size=16, rounds=2).to(dtype), photo(dtype=dtype))
    assert report.ok, str(report)
    (layer,) = report.layers
    assert 0 < layer.error <= layer.tolerance


@pytest.mark.parametrize("name", list_attention())
@pytest.mark.parametrize(
    "wanted",
    [
        {"boundary": "repeat"},
        {"window": (5, 7)},
        {"shared_qk": False, "normalize_keys": False},
        {"res_scale": -3.0},
        {"zero_init": True},
        {"backend": "eager"},
        {"bucket_size": 400},
    ],
    ids=str,
)
def test_so_it_is_with_other_settings(name: str, wanted: dict[str, object]) -> None:
    report = check(make(name, **{"bucket_size": 16, "rounds": 2, **wanted}), photo(dtype=torch.float32), queries=100)
    assert report.ok, str(report)


def test_steep_scores_round_more() -> None:
    block = make("nlsa", bucket_size=16, rounds=2)
    with torch.no_grad():
        block.embed.weight.mul_(100)
    assert check(block, photo(dtype=torch.float32)).ok


def test_the_error_is_the_distance_to_the_slow_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    right = blocked.attend_buckets
    monkeypatch.setattr(blocked, "attend_buckets", lambda q, k, v, b: right(q, k, v, b) + 1e-4 * q[..., :1])
    block, x = make("nlsa", bucket_size=8, rounds=2).double().eval(), photo(size=(5, 7))
    report = check(block, x)
    with torch.no_grad():
        q, k, v = (t.flatten(2).transpose(1, 2) for t in block.embed_tokens(x))
        twin = reference.attend(q, k, v, block.group(q, k, (5, 7))).transpose(1, 2).view_as(x)
        expected = float((block(x) - x - twin).abs().max() / (x + twin).abs().max())
    assert report.layers[0].error == pytest.approx(expected, rel=1e-6)
    assert not report.ok and "WRONG, off by" in str(report) and "0 of 1 right" in str(report)


class Louder(NonLocalSparseAttention):
    """Adds a little too much."""

    def _attend_tokens(self, *args) -> Tensor:
        return super()._attend_tokens(*args) * 1.001


class OnePixel(NonLocalSparseAttention):
    """Gives one pixel its neighbour's answer."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x).clone()
        out[:, :, 3, 5] = out[:, :, 3, 6]
        return out


class NotANumber(NonLocalSparseAttention):
    """Divides by zero somewhere."""

    def _attend_tokens(self, *args) -> Tensor:
        out = super()._attend_tokens(*args).clone()
        out[0, 7] = torch.inf
        return out


class Repeats(NonLocalSparseAttention):
    """Its order is no permutation."""

    def group(self, queries: Tensor, keys: Tensor, size: tuple[int, int]) -> Buckets:
        order = super().group(queries, keys, size).order.clone()
        order[..., 1] = order[..., 0]
        return Buckets(order, self.bucket_size, self.neighbors)


class ListsTwice(LocalWindowAttention):
    """Its lists name a key twice."""

    window = None

    def group(self, queries: Tensor, keys: Tensor, size: tuple[int, int]) -> Groups:
        return KeyLists(torch.zeros(len(queries), queries.shape[1], 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (Louder, "constant values change by 1.0e-03"),
        (OnePixel, "off by"),
        (NotANumber, "output is not finite"),
        (Repeats, "do not hold every pixel once"),
        (ListsTwice, "do not hold every pixel once"),
    ],
)
def test_what_is_broken_is_found(broken: type, fault: str) -> None:
    kwargs = {"bucket_size": 16, "reduction": 2}
    report = check(nn.Sequential(make("nlsa", bucket_size=16), broken(6, **kwargs)).double(), photo())
    right, wrong = report.layers
    assert right.ok and not wrong.ok and not report.ok
    assert fault in str(wrong) and f"1 {broken.__name__}" in str(wrong)
    assert "1 of 2 right" in str(report)
    json.dumps(report.as_dict())


def test_bad_input_is_said() -> None:
    x = photo()
    x[0, 0, 0, 0] = torch.nan
    assert check(make("nlsa").double(), x).layers[0].faults == ("the input is not finite",)
    with pytest.raises(ConfigError, match="with attention"):
        check(nn.Conv2d(3, 3, 1), photo(3))


def test_a_whole_model_is_left_as_it_was() -> None:
    kwargs = {"rehash": "always", "rounds": 2, "bucket_size": 30}
    model = create_model("nlsn_light_x2", n_resblocks=2, n_feats=8, attention_at=[0, 2], attention_kwargs=kwargs)
    model.body.attention["0"].eval()
    x = torch.rand(1, 3, 23, 19)
    state = torch.get_rng_state(), draw_counts(model), [m.training for m in model.modules()]
    report = check(model, x)
    assert report.ok, str(report)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (draw_counts(model), [m.training for m in model.modules()])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    first, second, total = str(report).splitlines()
    assert first.startswith("body.attention.0 nlsa 2 rounds of 30 (blocked): right to ")
    assert "of dense attention's weight (top 16: " in second and "output differs by" in second
    assert total == "2 of 2 right"
    plain = report.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["layers"][1]["name"] == "body.attention.2"


def test_the_verdict_is_printed_unless_it_is_to_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    block = make("nlsa", bucket_size=16)
    report = check(block, photo(dtype=torch.float32))
    assert capsys.readouterr().out == f"{report}\n" and str(report).endswith("1 of 1 right")
    assert check(block, photo(dtype=torch.float32), quiet=True) == report
    assert capsys.readouterr().out == ""
    assert repr(report) == "CheckReport(ok=True, layers=1, unused=0)"


def test_thousands_of_tokens_and_unused_attention() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = make("nla"), make("nlsa")

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    report = check(Half(), photo(dtype=torch.float32, size=(61, 67)), queries=64)
    assert report.unused == ("idle",) and "idle: not called" in str(report)
    assert report.layers[0].health.keys_met == 61 * 67
    assert "equal to dense attention here" in str(report)


def test_descriptions() -> None:
    assert describe(make("nlsa", window=(4, 6), rounds=1)) == "nlsa 1 round of 144 in windows of 4x6"
    assert [describe(make(name)) for name in ("nla", "topk")] == ["nla", "topk of 144"]
