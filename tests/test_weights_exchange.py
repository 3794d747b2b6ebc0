"""BasicSR's weights into models that are there, and this package's into other people's programs."""

import re

import pytest
import torch
from torch import nn

from sparse_attn.errors import ConfigError, WeightsError
from sparse_attn.weights import load_checkpoint
from sparse_attn.weights.layouts import authors_state_dict
from sparse_attn.weights.recognise import recognise
from tests.backbones.originals import assert_near
from tests.tolerances import RELATIVE
from tests.twins import basicsr_edsr, built, saved, small_edsr, small_rcan


def test_names_of_basicsr_load_into_a_model_strictly(tmp_path):
    theirs = basicsr_edsr()
    path = saved(tmp_path / "x.pth", {"params_ema": theirs.state_dict()})
    model = small_edsr(n_resblocks=3, n_feats=6)
    shift = model.sub_mean.bias.clone()
    load_checkpoint(model, path)
    assert torch.equal(model.body.blocks[1].body[2].weight, theirs.body[1].conv2.weight)
    assert torch.equal(model.sub_mean.bias, shift)
    weights = theirs.state_dict()
    del weights["body.1.conv2.bias"]
    with pytest.raises(WeightsError, match=re.escape("missing: body.1.conv2.bias; build the model")):
        load_checkpoint(model, weights)
    with pytest.raises(WeightsError, match=r"missing: body\.attention\.0\.embed\.weight"):
        load_checkpoint(small_edsr(n_resblocks=3, n_feats=6, attention="nla", attention_at=[0]), theirs.state_dict())


def test_a_range_that_basicsr_does_not_use_is_warned_of():
    model = small_edsr(n_resblocks=3, n_feats=6, rgb_range=1.0)
    with pytest.warns(
        UserWarning, match="does not say its rgb_range, 255 as a rule in BasicSR's layout, and the model has 1"
    ):
        load_checkpoint(model, basicsr_edsr().state_dict())


def _spandrel(weights):
    from spandrel import ModelLoader

    return ModelLoader().load_from_state_dict({name: t.clone() for name, t in weights.items()})


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_an_rcan_in_the_authors_layout_loads_in_spandrel(white):
    model = small_rcan(rgb_range=white, scale=4).eval()
    loaded = _spandrel(authors_state_dict(model, rgb_range=255))
    assert (loaded.architecture.id, loaded.scale) == ("RCAN", 4)
    x = torch.rand(1, 3, 7, 11)
    with torch.no_grad():
        assert_near(loaded.model.eval()(x.clone()), model(x * white) / white, RELATIVE["float32"])


@pytest.mark.parametrize("norm", [True, False])
def test_an_rcan_of_spandrel_computes_the_same_here(norm):
    from spandrel.architectures.RCAN import RCAN as Theirs

    theirs = Theirs(n_resgroups=2, n_resblocks=2, n_feats=8, reduction=2, scale=2, norm=norm).eval()
    found = recognise(theirs.state_dict())
    ours = built(found).eval()
    white = 255.0 if norm else 1.0
    assert (found.family, ours.rgb_range) == ("rcan", white)
    assert norm or found.assumed == (
        "rgb_range is 1, as in Spandrel: the file holds no colour shift to tell it by; --rgb-range says otherwise",
    )
    x = torch.rand(1, 3, 7, 11)
    with torch.no_grad():
        assert_near(ours(x * white) / white, theirs(x.clone()), RELATIVE["float32"])


@pytest.mark.parametrize(
    "weights",
    [
        small_edsr().state_dict(),
        small_edsr(attention="nlsa", attention_at=[0, 2]).state_dict(),
        small_rcan().state_dict(),
        authors_state_dict(small_edsr()),
        authors_state_dict(small_edsr(attention="nlsa", attention_at=[0, 2])),
        authors_state_dict(small_rcan(attention="nlsa", attention_at=[0])),
    ],
    ids=["edsr", "nlsn", "rcan", "edsr_authors", "nlsn_authors", "rcan_slots_authors"],
)
def test_spandrel_knows_nothing_else(weights):
    from spandrel import UnsupportedModelError

    with pytest.raises(UnsupportedModelError):
        _spandrel(weights)


def test_spandrel_takes_an_rcan_with_later_slots_for_a_broken_one():
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        _spandrel(authors_state_dict(small_rcan(attention="nlsa", attention_at=[2])))


def test_the_authors_layout_of_anything_else_is_refused():
    with pytest.raises(WeightsError, match="Linear has no counterpart among the authors' networks"):
        authors_state_dict(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="bad rgb_range, expected a positive number, 1 or 255 as a rule, got -1"):
        authors_state_dict(small_edsr(), rgb_range=-1)
