"""What an error says, and what it is."""

import pickle

import pytest

from sparse_attn import errors
from sparse_attn.errors import ConfigError, SparseAttnError, WeightsError, unknown_name


def test_the_message_is_one_line_with_expected_got_and_remedy():
    error = SparseAttnError("bad scale", expected="2, 3 or 4", got=7, remedy="use 4")
    assert str(error) == "bad scale, expected 2, 3 or 4, got 7; use 4"
    assert (error.problem, error.expected, error.got, error.remedy) == ("bad scale", "2, 3 or 4", 7, "use 4")


@pytest.mark.parametrize(
    ("keywords", "text"),
    [({}, "bad"), ({"got": 0}, "bad, got 0"), ({"expected": 1}, "bad, expected 1"), ({"remedy": "stop"}, "bad; stop")],
)
def test_parts_may_be_left_out(keywords, text):
    assert str(SparseAttnError("bad", **keywords)) == text


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigError", ValueError),
        ("UnknownNameError", LookupError),
        ("WeightsError", RuntimeError),
        ("ImageError", OSError),
        ("DataError", OSError),
    ],
)
def test_each_is_also_the_builtin_one_would_catch(name, builtin):
    error = getattr(errors, name)("problem", got="this")
    assert isinstance(error, SparseAttnError)
    assert isinstance(error, builtin)
    assert str(error) == "problem, got this"


def test_unknown_names_list_close_matches_and_else_all():
    close = unknown_name("model", "nlsn_x5", ["nlsn_x4", "nlsn_x2", "rcan_x2"])
    assert str(close).startswith("unknown model 'nlsn_x5'; did you mean nlsn_x")
    assert str(unknown_name("model", "zzz", ["b", "a"])) == "unknown model 'zzz'; known: a, b"
    assert str(unknown_name("model", "zzz", [])) == "unknown model 'zzz'; known: none"


@pytest.mark.parametrize("error", [ConfigError("bad", got=3), WeightsError("bad")])
def test_the_message_survives_pickling(error):
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
