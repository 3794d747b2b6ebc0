from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparse_attn import Attention2d
from sparse_attn.errors import ConfigError, UnknownNameError
from sparse_attn.surgery import Insertion, insert_attention, remove_attention
from sparse_attn.surgery.channels import trace
from sparse_attn.surgery.names import matches
from tests.surgery.networks import UNet, network

PICTURE = torch.randn(1, 3, 16, 20, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("pattern", "name", "wanted"),
    [
        ("layer3.*", "layer3.0", True),
        ("layer3.*", "layer3", False),
        ("layer3.*", "layer3.0.conv1", False),
        ("layer3.**", "layer3.0.conv1", True),
        ("layer[12]", "layer2", True),
        ("**.conv?", "a.b.conv1", True),
        ("**", "a.b", True),
        ("*", "a.b", False),
        ("**.bn", "bn", True),
    ],
)
def test_stars_stay_between_dots(pattern: str, name: str, wanted: bool) -> None:
    assert matches(pattern, name) is wanted


def test_report() -> None:
    model = UNet()
    done = insert_attention(model, "up*", "nla", reduction=2)
    sizes = [sum(p.numel() for p in stage.attention_after.parameters()) for stage in (model.up2, model.up1)]
    assert done == [
        Insertion("up2", "up2.attention_after", "nla", 13, sizes[0], 1),
        Insertion("up1", "up1.attention_after", "nla", 13, sizes[1], 1),
    ]
    assert model.up1.attention_after.embed.out_channels == 6


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (["middle", "up1"], ["middle", "up1"]),
        (nn.BatchNorm2d, ["down1.1", "down2.1", "middle.1", "up2.1", "up1.1"]),
        ((nn.ConvTranspose2d, nn.Sequential), ["down1", "down2", "middle", "up2", "up1"]),
        (lambda name, module: isinstance(module, nn.ReLU) and name.startswith("d"), ["down1.2", "down2.2"]),
        ("**.0", ["down1.0", "down2.0", "middle.0", "up2.0", "up1.0"]),
    ],
    ids=["globs", "type", "types", "predicate", "anywhere"],
)
def test_ways_to_choose(where: object, wanted: list[str]) -> None:
    model = UNet().eval()
    with torch.no_grad():
        before = model(PICTURE)
        assert [one.after for one in insert_attention(model, where)] == wanted  # type: ignore[arg-type]
        assert torch.equal(model(PICTURE), before)


def test_channels_are_read_off_a_convolution_without_running_the_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (6, 5, 5)), nn.Conv2d(6, 11, 3), nn.ReLU())
    assert insert_attention(model, "2")[0].calls is None
    with pytest.raises(ConfigError, match=r"the model does not run on the sample \(1, 6, 64, 64\).*pass sample="):
        insert_attention(model, "3")
    assert insert_attention(model, "3", sample=torch.randn(2, 6, 5, 5))[0].channels == 11


def test_seeds_differ_and_settings_win() -> None:
    model = UNet()
    insert_attention(model, ["middle", "up1"])
    insert_attention(model, "up2", seed=7)
    insert_attention(model, "down1")
    seeds = {name: m.seed for name, m in model.named_modules() if isinstance(m, Attention2d)}
    assert seeds == {
        "middle.attention_after": 0,
        "up1.attention_after": 1,
        "up2.attention_after": 7,
        "down1.attention_after": 3,
    }


class Restless(nn.Module):
    """Draws random numbers, counts its calls in a buffer, and rebinds another one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3)
        self.norm = nn.BatchNorm2d(7)
        self.act = nn.ReLU()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = torch.rand(3)
        return self.act(self.norm(self.conv(x)))


def test_a_traced_model_is_left_as_it_was() -> None:
    model = Restless().train()
    model.conv.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match="bad bucket_size"):
        insert_attention(model, "act", bucket_size=0)
    random = torch.get_rng_state()
    assert trace(model, {model.act: "act"}, None)[model.act].channels == 7
    assert torch.equal(torch.get_rng_state(), random)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training and model.norm.training and not model.conv.training
    assert not model.act._forward_hooks
    insert_attention(model, "act")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())
    assert model.act.attention_after.training


class Twice(nn.Module):
    """Runs one module twice, under two names, and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.again = self.shared
        self.act = nn.ReLU()
        self.idle = nn.Sequential(nn.Conv2d(3, 8, 1))
        self.vector = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.shared(self.act(self.first(self.act(x)))))
        return self.vector(x.mean((2, 3)))


def test_a_module_of_two_names_gets_one_attention() -> None:
    model = Twice().eval()
    before, names = model(PICTURE), list(model.state_dict())
    done = insert_attention(model, ["again", "first"])
    assert [(one.after, one.calls) for one in done] == [("first", 1), ("shared", 2)]
    assert model.again.attention_after is model.shared.attention_after
    assert torch.equal(model(PICTURE), before)
    remove_attention(model, "again")
    remove_attention(model)
    assert list(model.state_dict()) == names


class Row(nn.Module):
    """Runs its children in its own way."""

    def __init__(self, *, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x / 2 if self.halve else x


def test_a_module_that_loops_over_its_children_runs_the_attention_once() -> None:
    model = nn.Sequential(Row(halve=False), nn.Conv2d(6, 2, 1)).eval()
    insert_attention(model, "0", "nla", zero_init=False)
    row = model[0]
    assert not row._forward_hooks
    assert torch.equal(row(PICTURE), row.attention_after(row.b(row.a(PICTURE))))


@pytest.mark.parametrize(
    ("model", "where", "problem"),
    [
        (UNet(), "upp.*", r"no module matches 'upp\.\*'; near it: up.*\* stays between two dots"),
        (UNet(), ["up1", "nothing"], "no module matches 'nothing'"),
        (UNet(), nn.LSTM, "no module matches"),
        (UNet(), 3, "bad where, expected globs, types, or a function"),
        (UNet(), ["up*", "up1"], r"patterns overlap.*up1 in 'up\*' and 'up1'"),
        (UNet(), ["up1", "up1.*"], r"patterns overlap.*got up1 and up1\.0"),
        (Twice(), "act", r"act runs 2 times, with different channels, expected one C, got \[3, 8\]"),
        (Twice(), "idle", "idle did not run on the sample"),
        (Twice(), "vector", r"vector gives no map, expected a tensor \(B, C, H, W\), got \(1, 5\)"),
        (nn.Sequential(Row(halve=True)), "0", r"0 \(Row\) runs its children in its own way"),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), "0", "reduction=2 or less"),
    ],
    ids=["close", "one of a list", "type", "junk", "overlap", "nested", "calls", "idle", "vector", "own way", "narrow"],
)
def test_refused_and_nothing_changed(model: nn.Module, where: object, problem: str) -> None:
    names, hooks = list(model.state_dict()), [dict(m._forward_hooks) for m in model.modules()]
    with pytest.raises(ConfigError, match=problem):
        insert_attention(model, where)  # type: ignore[arg-type]
    assert list(model.state_dict()) == names
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    assert not any(isinstance(m, Attention2d) for m in model.modules())


class FeaturesLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3)
        self.norm = nn.LayerNorm(7)
        self.block = nn.Sequential(nn.Linear(7, 7), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.norm(self.conv(x).permute(0, 2, 3, 1)))


@pytest.mark.parametrize("where", ["norm", "block.0"])
def test_features_last_are_not_taken_for_channels(where: str) -> None:
    with pytest.raises(ConfigError, match=rf"{where} gives its features last.*got \(B, H, W, C\) = \(1, 62, 62, 7\)"):
        insert_attention(FeaturesLast(), where)


def test_all_or_nothing_over_several_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    with pytest.raises(ConfigError, match="reduction=2 or less"):
        insert_attention(model, nn.Conv2d)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_twice_is_an_error_and_attentions_are_not_chosen() -> None:
    model = UNet()
    insert_attention(model, "up1")
    with pytest.raises(ConfigError, match=r"up1 is followed by an attention already.*remove_attention takes it out"):
        insert_attention(model, "up*")
    assert [one.after for one in insert_attention(model, "up1.*")] == ["up1.0", "up1.1", "up1.2"]
    with pytest.raises(ConfigError, match="no module matches"):
        insert_attention(model, "up1.attention_after.*")


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="nlsa"):
        insert_attention(UNet(), "up1", "nlsaa")
    with pytest.raises(UnknownNameError, match="rounds"):
        insert_attention(UNet(), "up1", round=2)


def test_wrapped_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="the model is wrapped, got DataParallel; edit the network first"):
        insert_attention(nn.DataParallel(UNet()), "module.up1")
    with pytest.raises(ConfigError, match="the model is wrapped, got OptimizedModule"):
        insert_attention(torch.compile(UNet(), backend="eager"), "_orig_mod.up1")  # type: ignore[arg-type]


def test_infinite_settings() -> None:
    with pytest.raises(ConfigError, match="bad res_scale"):
        insert_attention(UNet(), "up1", res_scale=float("inf"))


def test_meta_models() -> None:
    with torch.device("meta"):
        model = UNet()
    assert insert_attention(model, "up1")[0].channels == 13
    assert all(p.is_meta for p in model.parameters())


def test_a_module_of_another_network_keeps_its_attributes() -> None:
    model = network("torchvision.resnet18")
    insert_attention(model, "layer3.*")
    assert model.layer3[0].conv1.out_channels == 256
    assert len(model.layer3) == 2
    assert type(model.layer3[1]).__name__ == "BasicBlock"
