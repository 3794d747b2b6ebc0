"""The attention contract, checked for everything in the registry. A new attention is covered without a line here."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from sparse_attn.attention import (
    Attention2d,
    attentions,
    configure_attention,
    create_attention,
    list_attention,
)
from sparse_attn.errors import ConfigError, UnknownNameError
from sparse_attn.ops import Buckets
from tests.attention.support import assert_close, make, outputs_and_gradients, takes
from tests.tolerances import RELATIVE

pytestmark = pytest.mark.parametrize("name", list_attention())

# local_window needs squares.
SQUARES = [1, 4, 9, 16, 25]

sides = st.sampled_from([1, 2, 3, 5, 7, 11])
contract = settings(max_examples=12, deadline=None, derandomize=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@given(batch=st.integers(1, 2), height=sides, width=sides, rounds=st.integers(1, 3), extra=st.integers(0, 5))
@contract
def test_full_size_bucket_is_dense(
    name: str, dtype: torch.dtype, batch: int, height: int, width: int, rounds: int, extra: int
) -> None:
    """3. Every size with k >= N gives dense attention, outputs and all gradients."""
    torch.manual_seed(batch * height * width)
    # The next square, so that local_window, which needs one, is covered too.
    side = int((height * width - 1) ** 0.5) + 1 + extra
    block = make(name, bucket_size=side * side, rounds=rounds).to(dtype)
    dense = make("nla").to(dtype)
    dense.load_state_dict(block.state_dict())
    x, cotangent = torch.randn(2, batch, 6, height, width, dtype=dtype).unbind(0)
    ours, expected = (outputs_and_gradients(b, x, cotangent) for b in (block, dense))
    precision = str(dtype).removeprefix("torch.")
    assert ours.keys() == expected.keys()
    for what, value in expected.items():
        # The floor is for gradients that are zero but for rounding: theta's, where there is one pixel.
        loose = precision == "float32" and what.startswith("grad.")
        assert_close(ours[what], value, "float32.param_grad" if loose else precision, floor=1.0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3), (5, 7), (9, 10)])
def test_sees_all_is_true_of_the_groups(name: str, height: int, width: int) -> None:
    """What goes into one graph for all sizes, as it is said to be dense, is dense."""
    block, tokens = make(name, bucket_size=16, rounds=2), height * width
    queries = torch.randn(1, tokens, 4)
    groups = block.group(queries, queries, (height, width))
    dense = isinstance(groups, Buckets) and groups.is_dense(tokens)
    assert dense or not block.sees_all(tokens)
    assert block.sees_all(tokens) or name not in ("nla", "local_window")


@given(
    batch=st.integers(1, 3),
    height=sides,
    width=sides,
    bucket=st.sampled_from(SQUARES),
    rounds=st.integers(1, 3),
    training=st.booleans(),
)
@contract
def test_any_size_runs(
    name: str, batch: int, height: int, width: int, bucket: int, rounds: int, training: bool
) -> None:
    """2. Any B, H, W, k, R; output and gradients are finite and of the input's shape."""
    block = make(name, bucket_size=bucket, rounds=rounds).train(training)
    x = torch.randn(batch, 6, height, width)
    for value in outputs_and_gradients(block, x, torch.ones_like(x)).values():
        assert torch.isfinite(value).all()
    assert block(x).shape == x.shape


@given(height=sides, width=sides, bucket=st.sampled_from(SQUARES), rounds=st.integers(1, 3))
@contract
def test_constant_values_stay_constant(name: str, height: int, width: int, bucket: int, rounds: int) -> None:
    """5. Attention weights are a distribution: constant values in, that constant out of attend and merge."""
    block = make(name, bucket_size=bucket, rounds=rounds).double()
    torch.nn.init.zeros_(block.value.weight)
    torch.nn.init.constant_(block.value.bias, 2.5)
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    torch.testing.assert_close(block(x) - x, torch.full_like(x, 2.5), atol=1e-12, rtol=0)


def test_images_of_a_batch_are_independent(name: str) -> None:
    block = make(name, bucket_size=16, rounds=2).double().eval()
    x = torch.randn(3, 6, 7, 11, dtype=torch.float64)
    apart = torch.cat([block(image[None]) for image in x])
    torch.testing.assert_close(block(x), apart, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """2. Every dtype in gives the same dtype out, near the float64 result."""
    block = make(name, bucket_size=9, rounds=2).eval()
    x = torch.randn(2, 6, 5, 7)
    out = copy.deepcopy(block).to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    expected = copy.deepcopy(block).double()(x.double())
    if dtype.itemsize >= 4:
        assert_close(out.double(), expected, str(dtype).removeprefix("torch."))
    else:
        # In half precision a token may change its group, so single pixels may differ by more.
        assert float((out - expected).detach().norm() / expected.detach().norm()) <= RELATIVE["bf16"]


def test_channels_last_is_kept(name: str) -> None:
    """2. channels_last in, channels_last out, same values."""
    block = make(name, channels=8, bucket_size=9).eval()
    x = torch.randn(2, 8, 5, 7)
    out = block(x.to(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close(out, block(x), "float32")


def test_same_seed_same_output(name: str) -> None:
    """7. Evaluation is deterministic, and two blocks with the same seed and weights agree."""
    first, second = (make(name, bucket_size=9, rounds=2).eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 6, 7, 11)
    torch.testing.assert_close(first(x), first(x), atol=0, rtol=0)
    torch.testing.assert_close(first(x), second(x), atol=0, rtol=0)


def test_global_random_state_is_untouched(name: str) -> None:
    """7. Forward draws nothing from the global generator, in training neither."""
    block = make(name, bucket_size=9).train()
    x = torch.randn(1, 6, 7, 11)
    before = torch.get_rng_state()
    block(x)
    assert torch.equal(before, torch.get_rng_state())


def test_rehash(name: str) -> None:
    """7. `train` is fresh in training only, `always` in evaluation too, `never` never."""
    if not takes(name, "rehash"):
        pytest.skip(f"{name} has no rehash setting")
    x = torch.randn(1, 6, 11, 13)
    fresh = {}
    for rehash in ("train", "always", "never"):
        block = make(name, bucket_size=9, rounds=1, rehash=rehash)
        fresh[rehash] = [not torch.equal(block.train(mode)(x), block(x)) for mode in (True, False)]
    assert fresh == {"train": [True, False], "always": [True, True], "never": [False, False]}


def test_checkpointed_activations(name: str) -> None:
    """Recomputation gives the gradients of what was computed, or says that it cannot."""
    block = make(name, bucket_size=9, rounds=1).double().train()
    x = torch.randn(1, 6, 11, 13, dtype=torch.float64, requires_grad=True)
    if takes(name, "rehash"):
        with pytest.raises(ConfigError, match="rehash='never'"):
            checkpoint(block, x, use_reentrant=False).square().sum().backward()
        configure_attention(block, rehash="never")
    (expected,) = torch.autograd.grad(block(x).square().sum(), x)
    (got,) = torch.autograd.grad(checkpoint(block, x, use_reentrant=False).square().sum(), x)
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_seed_changes_the_groups(name: str) -> None:
    if not takes(name, "seed"):
        pytest.skip(f"{name} has no seed")
    block = make(name, bucket_size=9, rounds=1).eval()
    x = torch.randn(1, 6, 11, 13)
    before = block(x)
    block.configure(seed=1)
    assert not torch.equal(before, block(x))


def test_autocast_bf16(name: str) -> None:
    """Under bf16 autocast the result is near float32, gradients flow and are finite."""
    block = make(name, bucket_size=16, rounds=2, channels=8).eval()
    x = torch.randn(2, 8, 7, 11)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x)
    assert_close(out.float(), block(x), "bf16")
    out.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters() if p.grad is not None)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_compile_fullgraph(name: str, training: bool) -> None:
    """torch.compile traces the whole forward pass, fresh rotations included."""
    torch.compiler.reset()
    block = make(name, bucket_size=9, rounds=2).train(training)
    twin = copy.deepcopy(block)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 6, 5, 7)
    for _ in range(2):
        assert_close(compiled(x), twin(x), "float32")


def test_export(name: str) -> None:
    """torch.export with a fixed size gives the eager result."""
    block = make(name, bucket_size=9, rounds=2).eval()
    x = torch.randn(1, 6, 5, 7)
    exported = torch.export.export(block, (x,)).module()
    assert_close(exported(x), block(x), "float32")


def test_copies_and_state_dict(name: str) -> None:
    """deepcopy, pickle and state dict round trips give the same function."""
    block = make(name, bucket_size=9, rounds=2).eval()
    other = make(name, bucket_size=9, rounds=2).eval()
    other.load_state_dict(block.state_dict())
    x = torch.randn(1, 6, 5, 7)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), other):
        torch.testing.assert_close(twin(x), block(x), atol=0, rtol=0)


@pytest.mark.parametrize("shared", [True, False], ids=["theta=phi", "theta!=phi"])
def test_one_state_dict(name: str, shared: bool) -> None:
    """All attentions have the parameters of `nla`, so weights move between them."""
    own = {k: v.shape for k, v in make(name, shared_qk=shared).state_dict().items()}
    assert own == {k: v.shape for k, v in make("nla", shared_qk=shared).state_dict().items()}
    assert any(key.startswith("query.") for key in own) is not shared


def test_zero_init_is_the_identity(name: str) -> None:
    block = make(name, bucket_size=9, zero_init=True)
    x = torch.randn(1, 6, 5, 7)
    torch.testing.assert_close(block(x), x, atol=0, rtol=0)


def test_a_bad_pixel_stays_in_its_image(name: str) -> None:
    """9. A NaN pixel raises nothing and leaves the batch's other images as they were."""
    block = make(name, bucket_size=4, neighbors=0, rounds=1).eval()
    x = torch.randn(2, 6, 7, 11)
    expected = block(x)[1]
    x[0, :, 3, 5] = torch.nan
    out = block(x)
    assert out[0].isnan().any()
    torch.testing.assert_close(out[1], expected, atol=1e-6, rtol=0)


def test_unknown_arguments_raise(name: str) -> None:
    """1. Only `channels` is positional; what is unknown raises and names its close match."""
    with pytest.raises(UnknownNameError, match="reduction"):
        create_attention(name, 8, reducton=2)
    with pytest.raises(TypeError):
        attentions.get(name)(8, 4)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("shape", "message"),
    [((6, 5, 7), "expected"), ((1, 5, 5, 7), "expected"), ((1, 6, 0, 7), "at least one pixel")],
)
def test_bad_input_is_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name)(torch.zeros(shape))


@pytest.mark.parametrize("argument", ["bucket_size", "rounds", "reduction", "embed_kernel"])
def test_bad_settings_are_refused(name: str, argument: str) -> None:
    if not takes(name, argument):
        pytest.skip(f"{name} has no {argument}")
    with pytest.raises(ConfigError, match=argument):
        create_attention(name, 8, **{argument: 0})


def test_configure(name: str) -> None:
    """8. Settings change after construction, all or none."""
    block = make(name, bucket_size=16, rounds=2)
    assert isinstance(block, Attention2d)
    if takes(name, "bucket_size"):
        assert configure_attention(block, bucket_size=4) == 1
        twin = make(name, bucket_size=4, rounds=2).eval()
        twin.load_state_dict(block.state_dict())
        x = torch.randn(1, 6, 5, 7)
        torch.testing.assert_close(block.eval()(x), twin(x), atol=0, rtol=0)
        with pytest.raises(UnknownNameError, match="nonesuch"):
            configure_attention(block, bucket_size=9, backend="nonesuch")
        assert block.bucket_size == 4
    with pytest.raises(UnknownNameError, match="unknown attention setting"):
        configure_attention(block, colour="red")
