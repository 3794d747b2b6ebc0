"""The registry of attentions, and that one new file is all a new attention takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import sparse_attn.attention as room
from sparse_attn.attention import (
    attentions,
    configure_attention,
    create_attention,
    list_attention,
    register_attention,
)
from sparse_attn.attention.nla import NonLocalAttention
from sparse_attn.errors import ConfigError, UnknownNameError

TOY = '''
from sparse_attn.attention.nla import NonLocalAttention
from sparse_attn.attention.registration import register_attention


@register_attention("{name}")
class Toy(NonLocalAttention):
    """A toy."""
'''


def test_names() -> None:
    assert list_attention() == ["local_window", "nla", "nlsa", "random_bucket", "topk"]
    assert list_attention("nl*") == ["nla", "nlsa"]


def test_unknown_name_lists_close_matches() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown attention 'nsla'; did you mean .*nlsa"):
        create_attention("nsla", 8)


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ConfigError, match="registered twice"):
        register_attention("nla")(type("Other", (NonLocalAttention,), {}))
    assert attentions.get("nla") is NonLocalAttention


def test_only_attentions_are_registered() -> None:
    with pytest.raises(ConfigError, match="a subclass of Attention2d"):
        register_attention("conv")(nn.Conv2d)  # type: ignore[arg-type]
    assert "conv" not in attentions


def test_configure_reaches_every_block_that_has_the_setting() -> None:
    model = nn.Sequential(create_attention("nlsa", 8), nn.ReLU(), create_attention("nla", 8))
    assert configure_attention(model, rounds=8) == 1
    assert configure_attention(model, backend="eager") == 2
    assert (model[0].rounds, model[2].backend) == (8, "eager")
    with pytest.raises(ConfigError, match="nothing to configure"):
        configure_attention(nn.ReLU(), rounds=8)


def _copy_with(tmp_path: Path, stem: str, text: str) -> dict[str, str]:
    package = Path(room.__file__).parent.parent
    shutil.copytree(package, tmp_path / "sparse_attn", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "sparse_attn" / "attention" / f"{stem}.py").write_text(text)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def _run(code: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_new_attention_is_one_file(tmp_path: Path) -> None:
    env = _copy_with(tmp_path, "toy", TOY.format(name="toy"))
    code = "import sparse_attn.attention as a; print(a.list_attention('t*'), a.create_attention('toy', 8).channels)"
    assert _run(code, env, tmp_path).stdout.strip() == "['topk', 'toy'] 8"


def test_stem_and_name_must_agree(tmp_path: Path) -> None:
    env = _copy_with(tmp_path, "toy", TOY.format(name="other"))
    result = _run("import sparse_attn.attention", env, tmp_path)
    assert result.returncode != 0
    assert "attention/toy.py must register one attention under its own stem" in result.stderr


def test_settings_show_in_repr() -> None:
    assert "bucket_size=100" in repr(create_attention("nlsa", 8, bucket_size=100))
