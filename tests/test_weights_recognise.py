"""Other people's checkpoints: recognised by their tensors, and computing what the original networks compute."""

import pytest
import torch
from torch import nn

from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.weights.layouts import authors_state_dict
from sparse_attn.weights.recognise import recognise
from tests.backbones.originals import assert_near, assert_same_network, read_original
from tests.twins import basicsr_edsr, basicsr_rcan, built, discriminator, msrresnet, small_edsr, small_rcan

ORIGINALS = {
    "edsr_x2_b4_f16": "edsr",
    "edsr_x3_b5_f16_res0.1": "edsr",
    "rcan_x2_g2b3_f16_r4": "rcan",
    "rcan_x4_g3b2_f16_r4": "rcan",
    "nlsn_x2_b8_f16_k16": "nlsn",
    "nlsn_x3_b16_f16_k36": "nlsn",
    "nlsn_x4_b8_f16_k25_h2": "nlsn",
}
NLSN = {"attention": "nlsa", "attention_kwargs": {"bucket_size": 144, "rounds": 4, "boundary": "repeat"}}


@pytest.mark.parametrize("name", ORIGINALS)
def test_networks_of_the_authors_are_recognised_and_compute_the_same(reference_dir, name):
    original = read_original(reference_dir, name)
    hyper = original.hyper
    settings = {"bucket_size": hyper.get("chunk_size", 144), "rounds": hyper.get("n_hashes", 4)}
    scale = None if ORIGINALS[name] == "rcan" else hyper["res_scale"]
    found = recognise(original.weights, res_scale=scale, settings=settings)
    assert (found.layout, found.family, found.assumed) == ("the authors'", ORIGINALS[name], ())
    for field in ("n_resgroups", "n_resblocks", "n_feats", "reduction", "rgb_range"):
        if field in hyper:
            assert found.config[field] == hyper[field]
    assert found.config["scale"] == hyper["scale"][0]
    assert_same_network(built(found), original, torch.float64)


@pytest.mark.parametrize("img_range", [255.0, 1.0])
@pytest.mark.parametrize(
    ("twin", "wanted"),
    [
        (basicsr_edsr, {"scale": 2, "n_resblocks": 3, "n_feats": 6}),
        (lambda **k: basicsr_edsr(scale=3, blocks=1, **k), {"scale": 3, "n_resblocks": 1}),
        (lambda **k: basicsr_edsr(scale=4, width=5, res_scale=0.25, **k), {"scale": 4, "n_feats": 5}),
        (basicsr_rcan, {"scale": 2, "n_resgroups": 3, "n_resblocks": 2, "n_feats": 8, "reduction": 4}),
        (lambda **k: basicsr_rcan(scale=8, groups=1, blocks=3, squeeze=2, **k), {"scale": 8, "reduction": 2}),
        (lambda **k: basicsr_rcan(scale=1, groups=2, blocks=1, **k), {"scale": 1, "n_resgroups": 2}),
    ],
    ids=["edsr_x2", "edsr_x3", "edsr_x4", "rcan_x2", "rcan_x8", "rcan_x1"],
)
def test_networks_of_basicsr_compute_the_same(twin, wanted, img_range):
    theirs = twin(img_range=img_range).double()
    block = theirs.body[0]
    scale = getattr(block, "res_scale", None)
    found = recognise(theirs.state_dict(), rgb_range=img_range, res_scale=scale)
    assert found.layout == "BasicSR's"
    assert wanted.items() <= found.config.items()
    ours = built(found).double()
    x = torch.rand(2, 3, 7, 11, dtype=torch.float64)
    with torch.no_grad():
        # Both constants of the mean are float32.
        assert_near(ours(x * img_range) / img_range, theirs(x), 1e-7)


def test_what_basicsr_does_not_say_is_assumed_and_said():
    found = recognise(basicsr_edsr(width=256, blocks=1).state_dict())
    assert (found.config["rgb_range"], found.config["res_scale"]) == (255.0, 0.1)
    assert [line.split(",")[0] for line in found.assumed] == ["rgb_range is 255", "res_scale is 0.1"]
    assert "no colour shift" in found.assumed[0] and "--rgb-range" in found.assumed[0]
    told = recognise(basicsr_edsr().state_dict(), settings={"rgb_range": 1.0, "res_scale": 0.5})
    assert (told.config["rgb_range"], told.config["res_scale"], told.assumed) == (1.0, 0.5, ())
    assert recognise(basicsr_edsr().state_dict(), rgb_range=2.0, settings={"rgb_range": 1.0}).config["rgb_range"] == 2.0


@pytest.mark.parametrize(
    "model",
    [
        small_edsr(scale=3, n_resblocks=5, rgb_range=1.0, in_chans=1),
        small_edsr(scale=1, n_resblocks=1),
        small_edsr(n_resblocks=4, attention="nlsa", attention_at=[0, 1, 4]),
        small_edsr(
            n_resblocks=3, attention="nlsa", attention_at=[2], attention_kwargs={"reduction": 2, "embed_kernel": 1}
        ),
        small_rcan(rgb_range=255, reduction=8, scale=8),
        small_rcan(n_resgroups=3, attention="nlsa", attention_at=[1, 3]),
    ],
    ids=["grey", "x1", "three_slots", "narrow", "rcan_x8", "rcan_slots"],
)
def test_every_shape_comes_back(model):
    found = recognise(authors_state_dict(model))
    again = built(found)
    wanted = model.state_dict()
    assert {name: t.shape for name, t in again.state_dict().items()} == {name: t.shape for name, t in wanted.items()}
    assert all(torch.equal(t, wanted[name]) for name, t in again.state_dict().items())
    assert (found.config["scale"], found.config["rgb_range"]) == (model.scale, model.rgb_range)
    assert list(again.body.attention) == list(model.body.attention)


def test_nlsn_gets_the_usual_buckets_and_the_authors_border():
    model = small_edsr(n_resblocks=2, rgb_range=1.0, attention="nlsa", attention_at=[0, 2])
    found = recognise(authors_state_dict(model))
    assert found.config["attention_kwargs"] == NLSN["attention_kwargs"]
    assert found.assumed[-1].startswith("nlsa with bucket_size 144 and rounds 4")
    known = recognise(authors_state_dict(model), settings={"bucket_size": 36.0, "rounds": 2.0})
    assert known.config["attention_kwargs"] == {"bucket_size": 36, "rounds": 2, "boundary": "repeat"}
    assert not any("bucket_size" in line for line in known.assumed)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_the_range_is_read_from_the_colour_shift(white):
    weights = authors_state_dict(small_edsr(rgb_range=white))
    assert recognise(weights).config["rgb_range"] == white
    trained = {**weights, "sub_mean.bias": weights["sub_mean.bias"] * 1.5}
    found = recognise(trained)
    assert found.config["rgb_range"] == white and "which was trained" in found.assumed[0]
    assert torch.equal(built(found).state_dict()["sub_mean.bias"], trained["sub_mean.bias"])
    other = recognise(weights, rgb_range=256 - white)
    with pytest.raises(WeightsError, match="for another rgb_range"):
        built(other)


@pytest.mark.parametrize(("family", "usual"), [("edsr", 255.0), ("nlsn", 1.0)])
def test_without_a_colour_shift_the_usual_range_is_assumed(family, usual):
    slots = {"attention": "nlsa", "attention_at": [0]} if family == "nlsn" else {}
    weights = authors_state_dict(small_edsr(**slots))
    for shift in ("sub_mean.bias", "add_mean.bias"):
        weights[shift] = torch.zeros(3)
    found = recognise(weights)
    assert (found.family, found.config["rgb_range"]) == (family, usual)
    assert "its colour shift is zero" in found.assumed[0]
    built(found)
    weights["sub_mean.bias"] = torch.full((3,), -7.0)
    with pytest.raises(
        WeightsError, match=r"of no usual range, expected white near 1 or 255, got 15\.6; say it: --rgb"
    ):
        recognise(weights)


def test_bad_numbers_and_an_rcan_with_a_res_scale_are_refused():
    with pytest.raises(ConfigError, match="bad rgb_range, expected a positive number, got 0"):
        recognise(basicsr_edsr().state_dict(), rgb_range=0)
    with pytest.raises(ConfigError, match=r"RCAN here has no res_scale, expected 1, got 0\.1"):
        recognise(basicsr_rcan().state_dict(), settings={"res_scale": 0.1})
    with pytest.raises(ConfigError, match="RCAN here has no res_scale"):
        recognise(authors_state_dict(small_rcan()), res_scale=0.1)
    # The authors' code takes one and ignores it.
    assert "res_scale" not in recognise(authors_state_dict(small_rcan()), settings={"res_scale": 0.1}).config


def _swinir():
    from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(embed_dim=12, depths=[2], num_heads=[2], window_size=4, upscale=2, upsampler="pixelshuffle")


def _esrgan():
    from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(num_filters=4, num_blocks=1, scale=2)


def _resnet():
    from torchvision.models import resnet18

    with torch.device("meta"):
        return resnet18()


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # of Spandrel's SwinIR
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_resnet, "a network that classifies"),
        (_swinir, "a transformer"),
        (_esrgan, "an RRDB network"),
        (msrresnet, "an SRResNet .*its leaky ReLUs and its skip of the enlarged picture are not EDSR's"),
        (discriminator, "a discriminator"),
        (small_edsr, "this package's own layout"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "a network with batch normalisation"),
    ],
    ids=["resnet", "swinir", "esrgan", "msrresnet", "discriminator", "own", "batchnorm"],
)
def test_other_networks_are_refused_by_their_kind(make, reason):
    with pytest.raises(WeightsError, match=f"not a network that can be imported: it looks like {reason}"):
        recognise(make().state_dict())


@pytest.mark.parametrize(
    ("name", "reason"), [("csnln_x2_d2_f8", "CSNLN"), ("rdn_x2_D3C3G8", "RDN"), ("rnan_x2_g3_f8", "RNAN"),
                         ("san_x2_g2b2_f16", "SAN")],
)  # fmt: skip
def test_other_networks_of_the_same_families_are_refused(reference_dir, name, reason):
    with pytest.raises(WeightsError, match=f"it looks like .*{reason}"):
        recognise(read_original(reference_dir, name).weights)


def test_what_is_no_network_is_refused_with_what_it_lacks():
    with pytest.raises(
        WeightsError, match=r"got one\.weight, \.\.\.; nearest is the authors' layout, of which it lacks h"
    ):
        recognise({"one.weight": torch.zeros(1)})
    weights = basicsr_edsr().state_dict()
    del weights["conv_after_body.weight"]
    with pytest.raises(WeightsError, match=r"nearest is BasicSR's layout, of which it lacks conv_after_body.weight$"):
        recognise(weights)
    with pytest.raises(WeightsError, match="got nothing, "):
        recognise({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("body.1.conv2.bias"), r"missing: body\.1\.conv2\.bias"),
        (
            lambda w: [w.pop(f"body.1.conv{i}.{k}") for i in (1, 2) for k in ("weight", "bias")],
            r"missing: body\.1\.conv1",
        ),
        (lambda w: w.update({"gamma": torch.zeros(1)}), "unexpected: gamma"),
        (
            lambda w: w.update({"conv_last.weight": torch.zeros(3, 6, 5, 5)}),
            r"misshapen: conv_last.weight is \(3, 6, 5",
        ),
        (lambda w: w.update({"body.0.conv1.weight": torch.zeros(7, 6, 3, 3)}), r"misshapen: body.0.conv1.weight"),
    ],
    ids=["tensor", "block", "extra", "kernel", "width"],
)
def test_what_does_not_fit_a_recognised_network_is_listed(change, message):
    weights = basicsr_edsr().state_dict()
    change(weights)
    with pytest.raises(WeightsError, match=message):
        built(recognise(weights))


def test_tensors_of_the_wrong_kind_are_refused():
    weights = basicsr_edsr().state_dict()
    with pytest.raises(WeightsError, match=r"conv_first.weight is not a convolution, .*got \(6, 3\)"):
        recognise({**weights, "conv_first.weight": torch.zeros(6, 3)})
    with pytest.raises(WeightsError, match=r"upsample.0.weight is not for a pixel shuffle .*got 150"):
        recognise({**weights, "upsample.0.weight": torch.zeros(150, 6, 3, 3)})


@pytest.mark.parametrize("number", ["2000000", "9" * 5001])
@pytest.mark.parametrize("name", ["body.{}.body.0.weight", "tail.0.{}.weight"])
def test_numbers_that_no_file_can_fill_are_refused_at_once(name, number):
    weights = authors_state_dict(small_edsr(n_resblocks=2))
    weights[name.format(number)] = torch.zeros(1)
    with pytest.raises(WeightsError, match="a number in the names is too large, expected below"):
        recognise(weights)


def test_more_blocks_than_tensors_are_refused():
    weights = authors_state_dict(small_rcan())
    count = len(weights)
    weights |= {f"body.{i}.conv.weight": torch.zeros(1) for i in range(count)}
    weights |= {f"body.0.body.{i}.weight": torch.zeros(1) for i in range(count)}
    with pytest.raises(WeightsError, match="fewer tensors than blocks"):
        recognise(weights)


@pytest.mark.parametrize("rgb_range", [1.0, 255.0])
def test_the_colour_shift_of_one_colour_is_nothing_to_assume_from(rgb_range):
    found = recognise(authors_state_dict(small_edsr(in_chans=1, rgb_range=rgb_range)))
    assert found.config["rgb_range"] == rgb_range
    assert not any("colour shift" in line for line in found.assumed)
