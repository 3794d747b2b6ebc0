"""What is saved is what comes back: folders, and what a model remembers of where it comes from."""

import ast
import copy
import json
import pickle

import pytest
import torch
from torch import nn

from sparse_attn.attention import attentions, configure_attention
from sparse_attn.backbones import EDSR, models, register_model
from sparse_attn.errors import ConfigError, UnknownNameError, WeightsError
from sparse_attn.factory import create_model, model_config, origin_of, save_pretrained
from sparse_attn.surgery import insert_attention, load_checkpoint, model_edits, save_checkpoint, swap_attention

SMALL = {"n_resblocks": 2, "n_feats": 8}
NLSN = {**SMALL, "attention_at": [0, 2], "attention_kwargs": {"bucket_size": 9, "rounds": 2}}


def assert_same(first, second):
    x = torch.rand(1, 3, 11, 13)
    with torch.no_grad():
        assert torch.equal(first.eval()(x), second.eval()(x))


def back(folder, **changes):
    return create_model(f"local-dir:{folder}", pretrained=True, **changes)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nlsn_light_x3", NLSN),
        ("nlsn_light_x2", {**NLSN, "attention": "local_window", "attention_kwargs": {"bucket_size": 25}}),
        ("nlsn_x4", {**NLSN, "attention_kwargs": {"window": (5, 7), "seed": 3}}),
        ("edsr_x2", {**SMALL, "rgb_range": 255.0, "in_chans": 1}),
        ("rcan_x2", {**SMALL, "n_resgroups": 2, "reduction": 4, "attention": "nla", "attention_at": (1,)}),
    ],
)
def test_a_saved_model_comes_back_the_same(tmp_path, name, arguments):
    model = create_model(name, **arguments)
    assert save_pretrained(model, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    loaded = back(tmp_path / "new" / "folder")
    x = torch.rand(1, model.in_chans, 11, 13)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert origin_of(loaded).model == name
    save_pretrained(loaded, tmp_path / "again")
    written = [json.loads((tmp_path / at / "config.json").read_text()) for at in ("new/folder", "again")]
    assert written[0]["config"] == written[1]["config"]


def test_settings_changed_later_are_saved_too(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    configure_attention(model, rounds=3, window=(5, 7), seed=11)
    loaded = back(save_pretrained(model, tmp_path))
    assert_same(loaded, model)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    assert config["attention_kwargs"] == {"bucket_size": 9, "rounds": 3, "window": [5, 7], "seed": 11}


def test_settings_that_no_configuration_has_are_refused(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    model.body.attention["2"].configure(rounds=5)
    with pytest.raises(
        ConfigError, match=r"no configuration of nlsn_light_x2 has .*, got rounds=5 at body.attention.2;"
    ):
        save_pretrained(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_rebuilt_is_refused(tmp_path):
    model = create_model("edsr_x2", **SMALL)
    model.body.blocks[1] = nn.Identity()
    with pytest.raises(
        ConfigError, match=r"is not what its configuration as edsr_x2 builds, got other .*body\.blocks\.1"
    ):
        save_pretrained(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_copies_pickles_and_wrappers_remember(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    forms = {
        "copy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "parallel": nn.DataParallel(model),
        "compiled": torch.compile(model),
    }
    for name, form in forms.items():
        assert origin_of(form) == origin_of(model)
        assert_same(back(save_pretrained(form, tmp_path / name)), model)


def test_what_was_noted_does_not_follow_the_callers_changes():
    settings = {"bucket_size": 9, "rounds": 2}
    model = create_model("nlsn_light_x2", **{**NLSN, "attention_kwargs": settings})
    settings["rounds"] = 99
    assert origin_of(model).config["attention_kwargs"]["rounds"] == 2


def test_weights_can_be_stored_smaller(tmp_path):
    model = create_model("edsr_x2", **SMALL)
    loaded = back(save_pretrained(model, tmp_path, dtype=torch.bfloat16))
    assert torch.equal(loaded.head.weight, model.head.weight.bfloat16().float())
    assert back(tmp_path, dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16


def test_a_card_is_written_once(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    save_pretrained(model, tmp_path / "mine", license_id="cc-by-4.0")
    text = (tmp_path / "mine" / "README.md").read_text()
    assert "license: cc-by-4.0" in text and 'create_model("local-dir:mine", pretrained=True)' in text
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in text
    (tmp_path / "mine" / "README.md").write_text("my own")
    save_pretrained(model, tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my own"
    save_pretrained(model, tmp_path / "mine", card="another")
    assert (tmp_path / "mine" / "README.md").read_text() == "another"


def test_a_model_built_otherwise_is_named_by_the_caller(tmp_path):
    model = models.get("edsr_x2").build(**SMALL)
    with pytest.raises(
        ConfigError, match=r"not known what this model was built from, .* got EDSR; pass model_name= and"
    ):
        save_pretrained(model, tmp_path)
    with pytest.raises(ConfigError, match="config without model_name; pass model_name= too"):
        save_pretrained(model, tmp_path, config=SMALL)
    with pytest.raises(ConfigError, match="is not what its configuration as edsr_x2 builds"):
        save_pretrained(model, tmp_path, model_name="edsr_x2")
    with pytest.raises(UnknownNameError, match="unknown model 'edsr_x9'"):
        save_pretrained(model, tmp_path, model_name="edsr_x9")
    save_pretrained(model, tmp_path, model_name="edsr_x2", config=SMALL)
    assert_same(back(tmp_path), model)


def test_a_registered_attention_given_as_its_class_is_saved_by_name(tmp_path):
    model = create_model("nlsn_light_x2", **{**NLSN, "attention": attentions.get("nlsa")})
    assert_same(back(save_pretrained(model, tmp_path)), model)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["attention"] == "nlsa"


def test_a_class_that_is_not_registered_cannot_be_saved(tmp_path):
    class Own(nn.Identity):
        pass

    model = create_model("edsr_x2", attention=Own, attention_at=[1], **SMALL)
    with pytest.raises(
        ConfigError, match=r"configuration of edsr_x2 is not JSON-able, .*; use registered names in place"
    ):
        save_pretrained(model, tmp_path)


def test_any_registered_module_can_be_saved(tmp_path, monkeypatch):
    class Plain(nn.Module):
        def __init__(self, *, width=3):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 1)

        def forward(self, x):
            return self.conv(x)

    monkeypatch.setattr(models, "_entries", dict(models._entries))
    register_model("plain", Plain)
    model = create_model("plain", width=5)
    assert_same(back(save_pretrained(model, tmp_path)), model)
    text = (tmp_path / "README.md").read_text()
    assert "20 parameters." in text and "upscale" not in text and "enlarges" not in text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no model of this package, expected a config.json .*, got none; check the path"),
        ({"config.json": "{"}, "cannot read weights"),
        ({"config.json": '{"architecture": "resnet50"}'}, "holds no model .*, got one with architecture; check"),
        ({"config.json": '{"model": "edsr_x2", "config": [1]}'}, "holds no model of this package"),
        ({"config.json": '{"model": "edsr_x2", "config": {}}'}, "no weights in"),
    ],
)
def test_a_folder_that_holds_no_model_is_one_clear_error(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(WeightsError, match=message):
        back(tmp_path, device="meta")


def test_without_pretrained_a_folder_gives_its_architecture(tmp_path):
    model = create_model("edsr_x2", **SMALL)
    save_pretrained(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    built = create_model(f"local-dir:{tmp_path}", n_feats=12)
    assert (len(built.body.blocks), built.head.out_channels) == (2, 12)
    assert {**model_config("edsr_x2"), **SMALL, "n_feats": 12} == json.loads(json.dumps(origin_of(built).config))


def test_damaged_weights_are_refused(tmp_path):
    save_pretrained(create_model("edsr_x2", **SMALL), tmp_path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"has the wrong SHA-256, .*; model.safetensors is damaged or of another"):
        back(tmp_path)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "edsr_x2",
            {"revision": "v1"},
            "a revision is of a repository of the Hub, got 'v1' of 'edsr_x2'; drop revision=",
        ),
        ("local-dir:x", {"revision": "v1"}, "a revision is of a repository of the Hub"),
        ("hf-hub:a/b@v1", {"revision": "v2"}, r"bad revision in 'hf-hub:a/b@v1', got 'v2'; give it once"),
        ("hf-hub:a/b@", {}, "bad revision in 'hf-hub:a/b@'"),
    ],
)
def test_a_revision_where_it_means_nothing_is_refused(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        create_model(name, **arguments)


@pytest.mark.parametrize(
    ("attention", "settings"),
    [
        ("nlsa", {"res_scale": 0.3}),
        ("nlsa", {"normalize_keys": False}),
        ("nlsa", {"reduction": 2, "shared_qk": False}),
        ("nla", {}),
        ("topk", {"bucket_size": 5}),
    ],
)
@pytest.mark.parametrize("where", ["body.attention.*", "body.attention.2"])
def test_exchanged_attentions_are_saved(tmp_path, attention, settings, where):
    torch.manual_seed(0)
    model = create_model("nlsn_light_x2", **NLSN)
    swap_attention(model, where, attention, **settings)
    state = torch.get_rng_state()
    loaded = back(save_pretrained(model, tmp_path))
    assert model_edits(loaded) == model_edits(model) != []
    assert_same(loaded, model)
    assert create_model(f"local-dir:{tmp_path}", device="meta").body.attention["2"].res_scale == (
        model.body.attention["2"].res_scale
    )
    torch.set_rng_state(state)
    save_pretrained(loaded, tmp_path / "again", card="")
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(back(tmp_path / "again"), model)


def test_inserted_attentions_are_saved(tmp_path):
    model = create_model("edsr_x2", **SMALL)
    insert_attention(model, "body.blocks.*", "nlsa", zero_init=False, rounds=2, bucket_size=9)
    configure_attention(model, rounds=3)
    folder = save_pretrained(model, tmp_path)
    assert_same(back(folder), model)
    for path in (folder, folder / "model.safetensors"):
        plain = create_model("edsr_x2", **SMALL)
        load_checkpoint(plain, path)
        assert_same(plain, model)
    assert "nlsa-attention" in (folder / "README.md").read_text()


def test_edits_of_a_model_in_the_zoo_are_done_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSE_ATTN_ZOO", str(tmp_path))
    model = create_model("nlsn_light_x2", **NLSN)
    swap_attention(model, "body.attention.*", "nlsa", res_scale=0.3)
    save_pretrained(model, tmp_path / "nlsn_light_x2")
    assert_same(create_model("nlsn_light_x2", pretrained=True), model)
    assert model_edits(create_model("nlsn_light_x2", **NLSN)) == []


def test_settings_changed_beside_exchanged_ones_are_saved(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    swap_attention(model, "body.attention.2", "nlsa", res_scale=0.3)
    model.body.attention["0"].configure(rounds=4)
    loaded = back(save_pretrained(model, tmp_path))
    assert [block.rounds for block in loaded.body.attention.values()] == [4, 2]
    assert_same(loaded, model)


def test_exchanged_attentions_are_not_silently_exchanged_for_others(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    swap_attention(model, "*", "topk", bucket_size=5)
    save_pretrained(model, tmp_path)
    with pytest.raises(
        ConfigError, match=r"exchanges attentions after the model is built, .* got attention; create it"
    ):
        back(tmp_path, attention="nla")


def test_attributes_that_were_changed_by_hand_are_saved_or_refused(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    for block in model.body.attention.values():
        block.res_scale = 0.1
    assert_same(back(save_pretrained(model, tmp_path / "all")), model)
    model.body.attention["2"].res_scale = 0.2
    with pytest.raises(ConfigError, match=r"has these attention settings, got res_scale=0.* at body.attention"):
        save_pretrained(model, tmp_path / "one")
    other = create_model("edsr_x2", **SMALL)
    other.body.blocks[1].res_scale = 0.7
    with pytest.raises(ConfigError, match=r"other modules, shapes or values at body.blocks.1.res_scale"):
        save_pretrained(other, tmp_path / "other")
    assert not (tmp_path / "one").exists() and not (tmp_path / "other").exists()


def test_what_concerns_training_and_the_machine_is_not_saved(tmp_path):
    model = create_model(
        "nlsn_light_x2", **{**NLSN, "attention_kwargs": {"bucket_size": 9, "rounds": 2, "backend": "eager"}}
    )
    model.body.set_grad_checkpointing()
    model.note = "mine"
    configure_attention(model, backend="triton")
    save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["attention_kwargs"] == {
        "bucket_size": 9,
        "rounds": 2,
    }


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.float8_e4m3fn, "float16"])
def test_weights_are_stored_as_what_can_be_computed_with(tmp_path, dtype):
    model = create_model("edsr_x2", **SMALL)
    with pytest.raises(ConfigError, match=r"bad dtype, expected a floating-point torch.dtype: float64, .*, got "):
        save_pretrained(model, tmp_path / "new", dtype=dtype)
    with pytest.raises(ConfigError, match="bad dtype"):
        create_model("edsr_x2", dtype=dtype, **SMALL)
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    model = create_model("edsr_x2", **SMALL)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "new" / "README.md").mkdir(parents=True)
    for place, message in {"file": "file, got File exists; choose", "file/in": "Not a directory"}.items():
        with pytest.raises(WeightsError, match=f"cannot write .*{message}"):
            save_pretrained(model, tmp_path / place)
    with pytest.raises(WeightsError, match=r"cannot write .*README.md, got a folder of this name"):
        save_pretrained(model, tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["README.md"]
    with pytest.raises(WeightsError, match=r"the model is on the meta device, got .*; build it on a real device"):
        save_pretrained(create_model("edsr_x2", device="meta", **SMALL), tmp_path / "meta")


def test_a_card_names_any_folder_and_follows_no_link(tmp_path):
    model = create_model("edsr_x2", **SMALL)
    folder = save_pretrained(model, tmp_path / 'a "b"\n# c ü\udce9')
    text = (folder / "README.md").read_text(encoding="utf-8")
    call = next(line for line in text.splitlines() if line.startswith("model ="))
    named = ast.parse(call).body[0].value.args[0].value
    assert named == f"local-dir:{folder.name}" and '\n# a "b" # c ü\n' in text
    (tmp_path / "mine.md").write_text("mine")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "README.md").symlink_to(tmp_path / "mine.md")
    save_pretrained(model, tmp_path / "new", card="theirs")
    assert (tmp_path / "mine.md").read_text() == "mine" and (tmp_path / "new" / "README.md").read_text() == "theirs"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_counting_the_weights_first_changes_nothing(tmp_path, monkeypatch):
    """The random ones are those of the seed; and a builder that reads values is not counted, but built."""
    save_pretrained(create_model("nlsn_light_x2", **NLSN), tmp_path)
    torch.manual_seed(3)
    wanted = create_model("nlsn_light_x2", **NLSN).state_dict()
    torch.manual_seed(3)
    found = create_model(f"local-dir:{tmp_path}").state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())

    def looking(*, n_feats=8):
        return EDSR(scale=2, n_resblocks=1, n_feats=n_feats, res_scale=torch.linspace(0.5, 1, 2)[0].item())

    monkeypatch.setattr(models, "_entries", dict(models._entries))
    register_model("looking", looking)
    model = create_model("looking", n_feats=4)
    assert_same(back(save_pretrained(model, tmp_path / "looking")), model)


def test_what_save_checkpoint_noted_is_done_again(tmp_path):
    model = create_model("nlsn_light_x2", **NLSN)
    swap_attention(model, "body.attention.*", "nlsa", res_scale=0.3)
    insert_attention(model, "body.blocks.0", "nla", zero_init=False)
    save_checkpoint(model, tmp_path / "edited.safetensors")
    assert_same(create_model("nlsn_light_x2", checkpoint=tmp_path / "edited.safetensors", **NLSN), model)
