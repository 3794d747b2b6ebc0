"""NLSA against the original authors' code, and what only NLSA has: injected rotations, windows, neighbours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from sparse_attn.attention import create_attention, use_rotations
from sparse_attn.attention.nlsa import NonLocalSparseAttention
from sparse_attn.errors import ConfigError
from sparse_attn.ops import hash_codes, sort_by_code
from tests.attention.support import assert_close, make, outputs_and_gradients

CASES = [
    "1chunk_36_k36_r2",
    "2chunk_30_k25_r2",
    "3chunk_108_k36_r1",
    "b3_pad6_126_k12_r2_res0.1",
    "cap128_576_k4_r1",
    "default_c64_289_k144_r4",
    "exact_144_k36_r4",
    "flat_ties_120_k9_r4",
    "mixnorm_90_k12_r2",
    "oddm_150_k10_r2",
    "pad1_143_k16_r4",
    "res0.1_256_k16_r4",
    "zero_region_100_k10_r2",
]


def _ours(name: str) -> str:
    return name.replace("conv_match.0", "embed").replace("conv_assembly.0", "value")


def _load(folder: Path, case: str, dtype: torch.dtype) -> tuple[NonLocalSparseAttention, dict[str, Tensor]]:
    path = folder / f"nlsa_{case}.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        hyper = json.loads(file.metadata()["hyper_parameters"])
    block = create_attention(
        "nlsa",
        hyper["channels"],
        bucket_size=hyper["chunk_size"],
        rounds=hyper["n_hashes"],
        reduction=hyper["reduction"],
        embed_kernel=hyper["k_size"],
        res_scale=hyper["res_scale"],
        boundary="repeat",
    )
    weights = {_ours(k.removeprefix("param.")): v for k, v in tensors.items() if k.startswith("param.")}
    block.load_state_dict(weights)
    assert isinstance(block, NonLocalSparseAttention)
    return block.to(dtype), tensors


def test_every_reference_file_is_listed(reference_dir: Path) -> None:
    found = {p.stem.removeprefix("nlsa_") for p in reference_dir.glob("nlsa_*.safetensors")}
    assert found == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_codes_and_order_are_the_authors(reference_dir: Path, case: str) -> None:
    block, tensors = _load(reference_dir, case, torch.float32)
    rotations = tensors["rotations"][0]
    codes = hash_codes(block.embed(tensors["input"]).flatten(2).transpose(1, 2), rotations)
    rounds, tokens = codes.shape[1:]
    round_index = torch.arange(rounds)[None, :, None]
    assert torch.equal((codes + round_index * 2 * rotations.shape[2]).flatten(1), tensors["hash_codes"].long())
    order = sort_by_code(codes) + round_index * tokens
    assert torch.equal(order.flatten(1), tensors["sort_indices"].long())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_outputs_and_gradients_are_the_authors(reference_dir: Path, case: str, precision: str) -> None:
    dtype = {"float64": torch.float64, "float32": torch.float32}[precision]
    block, tensors = _load(reference_dir, case, dtype)
    suffix = "_f64" if precision == "float64" else ""
    with use_rotations(block, [tensors["rotations"][0]]):
        got = outputs_and_gradients(block, tensors["input"].to(dtype), tensors["cotangent"].to(dtype))
    compared = 0
    for name, value in got.items():
        stem, _, rest = name.partition(".")
        theirs = {_ours(k): k for k in tensors}.get(f"{stem}{suffix}" + (f".{rest}" if rest else ""))
        if theirs is None:
            continue
        parameter = precision == "float32" and name not in ("output", "grad.input")
        assert_close(value, tensors[theirs], "float32.param_grad" if parameter else precision)
        compared += 1
    stored = {name for name in tensors if name.partition(".")[0] in (f"output{suffix}", f"grad{suffix}")}
    assert compared == len(stored)


def test_centred_hashing_does_not_see_what_all_tokens_share() -> None:
    generator = torch.Generator().manual_seed(0)
    block = make("nlsa", bucket_size=8, rounds=3, center=True).double()
    queries = torch.randn(2, 61, 3, dtype=torch.float64, generator=generator)
    shared = 50 * torch.randn(2, 1, 3, dtype=torch.float64, generator=generator)
    assert isinstance(block, NonLocalSparseAttention)
    rotations = block.rotations(3, 4, queries)
    centred = queries - queries.mean(dim=1, keepdim=True)
    assert torch.equal(block.codes(queries, rotations), hash_codes(centred, rotations))
    assert torch.equal(block.codes(queries + shared, rotations), block.codes(queries, rotations))
    block.configure(center=False)
    assert torch.equal(block.codes(queries, rotations), hash_codes(queries, rotations))
    assert len(block.codes(queries + shared, rotations).unique()) < len(block.codes(queries, rotations).unique())
    with pytest.raises(ConfigError, match="bad center, expected True or False, got 1"):
        block.configure(center=1)


@pytest.mark.parametrize("name", ["nlsa", "random_bucket"])
def test_weights_assigned_to_a_block_without_memory_can_be_trained(name: str) -> None:
    weights = make(name, bucket_size=16).state_dict()
    with torch.device("meta"):
        block = make(name, bucket_size=16)
    block.load_state_dict(weights, assign=True)
    assert block.train()(torch.rand(1, 6, 9, 11)).isfinite().all()
    assert int(block.draw.count) == 1


def test_rotations_that_do_not_fit_are_refused() -> None:
    block = make("nlsa", bucket_size=9, rounds=2)
    x = torch.randn(1, 6, 7, 11)
    with pytest.raises(ConfigError, match="1 tensors, got 2"), use_rotations(block, [torch.zeros(3, 2, 4)] * 2):
        pass
    with (
        pytest.raises(ConfigError, match=r"\(3, 2, 4\), got \(3, 2, 5\)"),
        use_rotations(block, [torch.zeros(3, 2, 5)]),
    ):
        block(x)
    block(x)


def test_rotations_reach_each_block_in_order_and_are_taken_back() -> None:
    blocks = nn.Sequential(*(make("nlsa", bucket_size=9, rounds=2) for _ in range(2))).eval()
    x = torch.randn(1, 6, 7, 11)
    first, second = torch.randn(2, 3, 2, 4).unbind(0)
    before = blocks(x)
    with use_rotations(blocks, [first, second]):
        inside = blocks(x)
        with use_rotations(blocks[0], [first]):
            middle = blocks[0](x)
        with use_rotations(blocks[1], [second]):
            assert torch.equal(blocks[1](middle), inside)
        assert torch.equal(blocks(x), inside)
    assert not torch.equal(before, inside)
    assert torch.equal(blocks(x), before)


@pytest.mark.parametrize("neighbors", [0, 1, 2])
def test_up_to_three_chunks_are_dense(neighbors: int) -> None:
    """4. Where a chunk and its neighbours cover the map, and only there, the result is dense."""
    block, dense = (make(n, bucket_size=10, neighbors=neighbors, rounds=2).double().eval() for n in ("nlsa", "nla"))
    dense.load_state_dict(block.state_dict())
    for width in (1, 2, 3, 4):
        x = torch.randn(2, 6, 9, width, dtype=torch.float64)
        covered = width <= neighbors + 1
        assert torch.allclose(block(x), dense(x), atol=1e-12, rtol=0) == covered


@pytest.mark.parametrize("name", ["nlsa", "nla"])
def test_window_confines_attention(name: str) -> None:
    """`window=` gives each window, the smaller ones at the edges too, what it would get alone."""
    block = make(name, bucket_size=4, rounds=2, window=(3, 5)).double().eval()
    alone = make(name, bucket_size=4, rounds=2).double().eval()
    alone.load_state_dict(block.state_dict())
    for attention in (block, alone):
        # A 1x1 embedding, so that a cut-out window sees the same embeddings.
        attention.embed = nn.Conv2d(6, 3, 1).double()
    alone.embed.load_state_dict(block.embed.state_dict())
    x = torch.randn(2, 6, 7, 11, dtype=torch.float64)
    out = block(x)
    for top in (0, 3, 6):
        for left in (0, 5, 10):
            window = (..., slice(top, top + 3), slice(left, left + 5))
            torch.testing.assert_close(out[window], alone(x[window]), atol=1e-12, rtol=0)


def test_a_bad_pixel_reaches_its_chunk_only() -> None:
    """9. Nine tokens see the NaN through the embedding; each spoils at most its own chunk of four."""
    block = make("nlsa", bucket_size=4, neighbors=0, rounds=1).eval()
    x = torch.randn(1, 6, 23, 29)
    x[0, :, 11, 13] = torch.nan
    bad = block(x).isnan().any(dim=1)
    assert 0 < int(bad.sum()) <= 9 * 4


def test_more_rounds_come_nearer_to_dense_attention() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 23, 29)
    dense, sparse = make("nla").eval(), make("nlsa", bucket_size=16).eval()
    dense.load_state_dict(sparse.state_dict())
    errors = []
    for rounds in (1, 16):
        sparse.configure(rounds=rounds)
        errors.append(float((sparse(x) - dense(x)).detach().norm()))
    assert errors[1] < errors[0]
