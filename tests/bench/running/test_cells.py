"""Cell keys: everything that changes a result changes the key, nothing else does."""

import pytest

from bench.running import cells
from bench.store.spec_difference import difference


def test_the_key_ignores_order_and_sees_values():
    assert cells.key("train", {"a": 1, "b": [1, 2]}) == cells.key("train", {"b": [1, 2], "a": 1})
    assert cells.key("train", {"a": 1}) != cells.key("train", {"a": 2})
    assert cells.key("train", {"a": 1}) != cells.key("evaluation", {"a": 1})


def test_a_number_that_is_not_finite_has_no_key():
    with pytest.raises(ValueError, match="not JSON compliant"):
        cells.key("train", {"a": float("nan")})


def test_the_difference_is_said_in_words():
    old = {"seed": 0, "recipe": {"epochs": 30, "lr": 0.1}, "sources": {"a.py": "a" * 64}, "gone": 1}
    new = {"seed": 0, "recipe": {"epochs": 2, "lr": 0.1}, "sources": {"a.py": "b" * 64}}
    assert difference(old, new) == ["gone: 1 → absent", "recipe.epochs: 30 → 2", "sources changed: a.py"]


def test_changed_sources_of_model_and_evaluation_are_one_entry():
    old = {"model": {"seed": 0, "sources": {"a.py": "1", "same": "1"}}, "sources": {"a.py": "1"}}
    new = {"model": {"seed": 0, "sources": {"a.py": "2", "same": "1"}}, "sources": {"a.py": "2", "b.py": "1"}}
    assert difference(old, new) == ["sources changed: a.py, b.py"]
    many = {"sources": {f"{i:02}.py": "1" for i in range(20)}}
    assert difference({"sources": {}}, many)[0].endswith("07.py and 12 more")


def test_two_names_of_one_network_are_one_cell(tmp_path):
    from bench.running.prepare import Options, prepare

    def key(backbone):
        narrow = {"defenses": ("standard",), "seeds": (0,), "train_limit": 20, "limit": 4, "backbone": backbone}
        return prepare(Options(out=tmp_path, narrow=narrow)).runs[0].cell.id

    assert key("convnet-w16") == key("convnet")
    assert key("convnet-w8") != key("convnet")
