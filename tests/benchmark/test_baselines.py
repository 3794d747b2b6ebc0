"""The baselines compute what they are said to compute: the authors' released code, and dense attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparse_attn.attention import use_rotations
from sparse_attn.benchmark.baselines import Written, authors, dense_naive, dense_sdpa
from tests.attention.support import assert_close, make, outputs_and_gradients
from tests.attention.test_nlsa import CASES, _load, _ours


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_authors_is_the_authors_code(reference_dir: Path, case: str, precision: str) -> None:
    dtype = {"float64": torch.float64, "float32": torch.float32}[precision]
    block, tensors = _load(reference_dir, case, dtype)
    suffix = "_f64" if precision == "float64" else ""
    with use_rotations(block, [tensors["rotations"][0]]):
        got = outputs_and_gradients(Written(block, authors), tensors["input"].to(dtype), tensors["cotangent"].to(dtype))
    theirs = {_ours(key): key for key in tensors}
    compared = 0
    for name, value in got.items():
        stem, _, rest = name.replace("block.", "").partition(".")
        key = theirs.get(f"{stem}{suffix}" + (f".{rest}" if rest else ""))
        if key is not None:
            parameter = precision == "float32" and name not in ("output", "grad.input")
            assert_close(value, tensors[key], "float32.param_grad" if parameter else precision)
            compared += 1
    assert compared == len([name for name in tensors if name.partition(".")[0] in (f"output{suffix}", f"grad{suffix}")])


@pytest.mark.parametrize("size", [(7, 11), (13, 11)])
def test_authors_is_nlsa_with_repeated_tails(size: tuple[int, int]) -> None:
    block = make("nlsa", bucket_size=9, rounds=3, boundary="repeat", res_scale=0.3, backend="eager").double().eval()
    x, cotangent = torch.randn(2, 2, 6, *size, dtype=torch.float64).unbind(0)
    got, expected = (outputs_and_gradients(m, x, cotangent) for m in (Written(block, authors), block))
    renamed = {name.replace("block.", ""): value for name, value in got.items()}
    assert renamed.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(renamed[name], value, "float64")


@pytest.mark.parametrize("write", [dense_naive, dense_sdpa])
def test_dense_baselines_are_nla(write) -> None:
    block = make("nla", res_scale=0.3, backend="eager").double().eval()
    x, cotangent = torch.randn(2, 2, 6, 7, 11, dtype=torch.float64).unbind(0)
    got, expected = (outputs_and_gradients(m, x, cotangent) for m in (Written(block, write), block))
    assert_close(got["output"], expected["output"], "float64")
    assert_close(got["grad.input"], expected["grad.input"], "float64")
    assert_close(got["grad.block.embed.weight"], expected["grad.embed.weight"], "float64")
