"""Bucket health against the obvious formulas, written with loops over the slow twin's lists of keys."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparse_attn import create_model, list_attention
from sparse_attn.attention import Attention2d, probe
from sparse_attn.attention.health import Health, attention_health, health
from sparse_attn.attention.probing import Probe, Region
from sparse_attn.errors import ConfigError
from sparse_attn.ops import Buckets
from sparse_attn.ops.reference import attended_keys
from tests.attention.support import make

EXACT = 1e-10


def looked_at(
    name: str, size: tuple[int, int] = (11, 13), batch: int = 2, **wanted: object
) -> tuple[Attention2d, Probe]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # The same weights, whichever attention it is.
        block = make(name, **{"bucket_size": 16, "rounds": 3, **wanted}).double().eval()
    x = torch.randn(batch, 6, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return block, probe(block, x)[""]


def keys_of_everyone(found: Probe) -> list[list[list[int]]]:
    """For each image and query the keys of all rounds, with multiplicity, from the slow twin."""
    (region,) = found.regions
    batch, tokens, _ = found.queries.shape
    keys: list[list[list[int]]] = [[[] for _ in range(tokens)] for _ in range(batch)]
    for image in range(batch):
        if not isinstance(region.groups, Buckets):
            keys[image] = region.groups.index[image].tolist()
            continue
        for order in region.groups.order[image % len(region.groups.order)].tolist():
            for query, met in attended_keys(region.groups, order).items():
                keys[image][query] += met
    return keys


def by_loops(found: Probe, top: int) -> Health:
    kept, recall, met, off, whole = [], [], [], 0.0, 0.0
    for image, lists in enumerate(keys_of_everyone(found)):
        q, k, v = (t[image] for t in (found.queries, found.keys, found.values))
        for query, keys in enumerate(lists):
            scores = k @ q[query]
            dense = scores.softmax(0)
            times = Counter(keys)
            kept.append(sum(float(dense[key]) for key in times))
            best = sorted(range(len(k)), key=lambda key: -float(scores[key]))[:top]
            recall.append(sum(key in times for key in best) / len(best))
            met.append(len(keys))
            out = scores[keys].softmax(0) @ v[keys]
            off += float((out - dense @ v).square().sum())
            whole += float((dense @ v).square().sum())
    mean = [sum(values) / len(values) for values in (kept, recall, met)]
    return Health(mean[0], mean[1], math.sqrt(off / whole), mean[2], None, None)


@pytest.mark.parametrize("name", ["nlsa", "random_bucket", "topk"])
@pytest.mark.parametrize("wanted", [{}, {"boundary": "repeat"}, {"neighbors": 0}, {"shared_qk": False}])
def test_equals_the_formulas(name: str, wanted: dict[str, object]) -> None:
    _, found = looked_at(name, (7, 9), bucket_size=8, **wanted)
    got, expected = health(found, top=5), by_loops(found, top=5)
    for number in ("mass_kept", "recall", "output_error", "keys_met"):
        assert getattr(got, number) == pytest.approx(getattr(expected, number), abs=EXACT), number
    assert got.output_error > 0.0 and got.mass_kept < 1.0


@pytest.mark.parametrize("name", list_attention())
@pytest.mark.parametrize("window", [None, 5])
def test_output_error_is_that_of_the_modules(name: str, window: int | None) -> None:
    block, found = looked_at(name, window=window)
    dense = make("nla").double().eval()
    dense.load_state_dict(block.state_dict())
    with torch.no_grad():
        sparse, full = block(found.inputs) - found.inputs, dense(found.inputs) - found.inputs
    assert health(found).output_error == pytest.approx(float((sparse - full).norm() / full.norm()), abs=EXACT)


@pytest.mark.parametrize("name", list_attention())
def test_a_bucket_that_holds_everything_loses_nothing(name: str) -> None:
    _, found = looked_at(name, bucket_size=256)
    keys = 143.0 * (3 if name == "random_bucket" else 1)  # which draws its rounds all the same
    assert health(found) == Health(pytest.approx(1), 1.0, pytest.approx(0, abs=1e-12), keys, None, None)


def test_compared_with_windows() -> None:
    """What windows leave out is not held against an attention that was to be as they are."""
    _, dense = looked_at("nla", window=(5, 7))
    block, sparse = looked_at("nlsa", window=(5, 7), bucket_size=12)
    assert health(dense).mass_kept < 0.9
    same = health(dense, against=dense)
    assert (same.mass_kept, same.recall, same.output_error) == (pytest.approx(1), 1.0, 0.0)
    exact = make("nla", window=(5, 7)).double().eval()
    exact.load_state_dict(block.state_dict())
    reference = probe(exact, sparse.inputs)[""]
    covering, _ = looked_at("nlsa", window=(5, 7), bucket_size=35)
    covering.load_state_dict(block.state_dict())
    equal = health(probe(covering, sparse.inputs)[""], against=reference)
    assert equal.mass_kept == pytest.approx(1) and equal.output_error < EXACT
    assert health(sparse, against=reference).mass_kept > health(sparse).mass_kept
    with pytest.raises(ConfigError, match="different sizes"):
        health(sparse, against=looked_at("nla", (7, 9))[1])


def hashed(codes: list[list[int]], k: int) -> Probe:
    """One image of a few tokens, one row of codes a round."""
    _, found = looked_at("nlsa", (1, len(codes[0])), batch=1)
    rounds = torch.tensor([codes])
    groups = Buckets(rounds.sort(dim=-1, stable=True).indices, k)
    return replace(found, regions=(Region(torch.arange(len(codes[0])).view(1, -1), groups, rounds),))


def test_entropy_and_purity_by_hand() -> None:
    # N = 8, k = 2: m = 4 codes.
    even = health(hashed([[0, 1, 2, 3, 3, 2, 1, 0]], 2))
    assert even.occupancy_entropy == pytest.approx(1) and even.chunk_purity == 1.0
    alike = health(hashed([[2] * 8], 2))
    assert alike.occupancy_entropy == 0.0 and alike.chunk_purity == 1.0
    # In order 0 0, 0 1, 1 1, 2 3; and a second round whose pairs are all alike.
    mixed = health(hashed([[0, 1, 0, 1, 2, 1, 3, 0], [0, 0, 0, 0, 1, 1, 1, 1]], 2))
    assert mixed.chunk_purity == pytest.approx((2 + 1 + 2 + 1 + 8) / 16)
    of_two = health(hashed([[0, 0, 1, 1, 1, 1, 1, 1]], 4))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    assert of_two.occupancy_entropy == pytest.approx(expected)
    assert health(looked_at("random_bucket")[1]).occupancy_entropy is None


@given(
    name=st.sampled_from(list_attention()),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    bucket=st.sampled_from([1, 4, 9, 16]),
    rounds=st.integers(1, 3),
    top=st.integers(1, 20),
)
@settings(max_examples=40, deadline=None)
def test_shares_are_shares(name: str, height: int, width: int, bucket: int, rounds: int, top: int) -> None:
    _, found = looked_at(name, (height, width), bucket_size=bucket, rounds=rounds)
    got = health(found, top=top)
    for share in (got.mass_kept, got.recall, got.occupancy_entropy, got.chunk_purity):
        assert share is None or 0 <= share <= 1 + 1e-12
    assert got.output_error >= 0 and got.keys_met >= 1
    assert (got.chunk_purity is None) == (got.occupancy_entropy is None)
    if name == "topk":
        assert got.recall == pytest.approx(min(bucket, top, height * width) / min(top, height * width))
        others = [health(looked_at(other, (height, width), bucket_size=bucket, rounds=1, neighbors=0)[1], top=top)
                  for other in ("nlsa", "random_bucket", "local_window")]  # fmt: skip
        assert all(other.mass_kept <= got.mass_kept + 1e-12 for other in others)


def test_a_sample_is_near_and_repeatable() -> None:
    _, found = looked_at("nlsa", (23, 29))
    before = torch.get_rng_state()
    whole, some = health(found), health(found, queries=128)
    assert torch.equal(torch.get_rng_state(), before)
    assert some == health(found, queries=128) != health(found, queries=128, seed=1)
    assert some.mass_kept == pytest.approx(whole.mass_kept, rel=0.2)
    assert health(found, queries=667) == whole


@pytest.mark.parametrize("argument", ["queries", "top"])
def test_bad_arguments(argument: str) -> None:
    with pytest.raises(ConfigError, match=argument):
        health(looked_at("nla", (2, 3))[1], **{argument: 0})


def test_numbers_for_a_log() -> None:
    model = create_model("nlsn_light_x2", n_resblocks=2, n_feats=8, attention_at=[0, 2], attention_kwargs={"rounds": 1})
    x = torch.rand(1, 3, 29, 23)
    numbers = attention_health(model.train(), x)
    assert model.body.training and model.body.attention["0"].training
    names = [f"body.attention.{place}/{field}" for place in (0, 2) for field in Health.__dataclass_fields__]
    assert list(numbers) == names and all(type(number) is float for number in numbers.values())
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    block = model.body.attention["0"]
    assert set(attention_health(block, torch.randn(1, 8, 3, 5))) == {"mass_kept", "recall", "output_error", "keys_met"}
    assert attention_health(nn.Conv2d(3, 3, 1), x) == {}
