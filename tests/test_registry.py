"""Names to things, loudly."""

import pytest

from sparse_attn.errors import ConfigError, UnknownNameError
from sparse_attn.registry import Registry


@pytest.fixture
def shapes():
    registry = Registry("shape")
    for name in ("square", "circle", "square_root"):
        registry.register(name)(name.upper())
    return registry


def test_what_is_registered_is_found(shapes):
    assert shapes.get("circle") == "CIRCLE"
    assert "circle" in shapes
    assert "triangle" not in shapes
    assert len(shapes) == 3
    assert list(shapes) == ["circle", "square", "square_root"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*", ["circle", "square", "square_root"]), ("square*", ["square", "square_root"]), ("SQUARE", []), ("tri*", [])],
)
def test_names_match_wildcards(shapes, pattern, names):
    assert shapes.names(pattern) == names


def test_register_returns_the_thing(shapes):
    thing = object()
    assert shapes.register("oval")(thing) is thing


def test_the_same_thing_again_is_fine_and_another_is_refused(shapes):
    first = shapes.get("circle")
    shapes.register("circle")(first)
    with pytest.raises(ConfigError, match="shape 'circle' is registered twice, got 'other'; give one of them"):
        shapes.register("circle")("other")
    assert shapes.get("circle") is first


@pytest.mark.parametrize("name", ["", "Circle", "two words", "x-2", "2x"])
def test_bad_names_are_refused(shapes, name):
    with pytest.raises(ConfigError, match="bad shape name, expected a lower-case identifier"):
        shapes.register(name)
    assert len(shapes) == 3


def test_an_unknown_name_lists_close_ones(shapes):
    with pytest.raises(UnknownNameError, match="unknown shape 'sqare'; did you mean square"):
        shapes.get("sqare")
