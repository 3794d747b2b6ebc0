"""NLSN, a configuration of EDSR, against the authors' network and checkpoints."""

import pytest
import torch

from sparse_attn.attention import configure_attention
from sparse_attn.backbones import EDSR
from sparse_attn.factory import create_model
from sparse_attn.weights import load_checkpoint
from tests.backbones.originals import assert_same_network, read_original

NETWORKS = ["nlsn_x2_b8_f16_k16", "nlsn_x3_b16_f16_k36", "nlsn_x4_b8_f16_k25_h2"]
CHECKPOINTS = ["nlsn_ckpt_x2", "nlsn_ckpt_x3_legacy"]


def _like(original):
    hyper = original.hyper
    return EDSR(
        scale=hyper["scale"][0],
        n_resblocks=hyper["n_resblocks"],
        n_feats=hyper["n_feats"],
        res_scale=hyper["res_scale"],
        rgb_range=hyper["rgb_range"],
        attention="nlsa",
        attention_at=range(0, hyper["n_resblocks"] + 1, 8),
        attention_kwargs={"bucket_size": hyper["chunk_size"], "rounds": hyper["n_hashes"], "boundary": "repeat"},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_original(reference_dir, name, dtype):
    original = read_original(reference_dir, name)
    model = _like(original)
    load_checkpoint(model, original.weights)
    assert_same_network(model, original, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_made_by_the_authors_code_load(reference_dir, name, dtype):
    """Networks of other sizes than the released ones, saved as those are."""
    original = read_original(reference_dir, name)
    hyper = original.hyper
    attention = {"bucket_size": hyper["chunk_size"], "rounds": hyper["n_hashes"]}
    model = create_model(
        f"nlsn_x{hyper['scale'][0]}",
        checkpoint=reference_dir / f"{name}.pt",
        n_resblocks=hyper["n_resblocks"],
        n_feats=hyper["n_feats"],
        attention_at=range(0, hyper["n_resblocks"] + 1, 8),
        attention_kwargs={**attention, "boundary": "repeat", "rehash": "always"},
    )
    assert_same_network(model, original, dtype)


def test_other_rotations_change_the_output(reference_dir):
    original = read_original(reference_dir, NETWORKS[0])
    model = _like(original).eval()
    load_checkpoint(model, original.weights)
    outputs = []
    for seed in (1, 2):
        configure_attention(model, seed=seed)
        with torch.no_grad():
            outputs.append(model(original.tensors["input"]))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4


def test_the_published_network_has_the_published_number_of_parameters():
    model = create_model("nlsn_x2", device="meta")
    assert list(model.body.attention) == ["0", "8", "16", "24", "32"]
    parameters = sum(p.numel() for p in model.parameters())
    mean_shift = sum(t.numel() for n, t in model.state_dict().items() if n.split("_")[-1].startswith("mean."))
    assert mean_shift == 24
    assert parameters + mean_shift == 41_796_187


def test_the_light_one_has_three_attentions():
    model = create_model("nlsn_light_x4", device="meta")
    assert list(model.body.attention) == ["0", "8", "16"]
    assert model.scale == 4
