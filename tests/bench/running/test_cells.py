"""Cell keys: everything that changes a result changes the key, nothing else does."""

import importlib.util
import sys

import pytest

from bench.running import cells, sources


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_key_ignores_order_and_sees_values():
    assert cells.key("train", {"a": 1, "b": [1, 2]}) == cells.key("train", {"b": [1, 2], "a": 1})
    assert cells.key("train", {"a": 1}) != cells.key("train", {"a": 2})
    assert cells.key("train", {"a": 1}) != cells.key("evaluation", {"a": 1})


def test_a_number_that_is_not_finite_has_no_key():
    with pytest.raises(ValueError, match="not JSON compliant"):
        cells.key("train", {"a": float("nan")})


def test_sources_follow_imports_into_our_packages_only():
    from bench.core import registry

    found = sources.sources([registry.defenses.get("lcnn").function])
    assert "bench.models.defenses.lcnn" in found
    assert "bench.models.layers.centered_softplus" in found
    assert not any(name.startswith(("torch", "bench.core.discovery", "bench.store")) for name in found)


def test_an_edited_file_and_an_edited_neighbour_change_the_sources(tmp_path):
    (tmp_path / "neighbour.py").write_text("factor = 1\n")
    (tmp_path / "mine.py").write_text("import neighbour\nimport torch\n\ndef f():\n    return neighbour.factor\n")
    sys.path.insert(0, str(tmp_path))
    try:
        f = load(tmp_path / "mine.py", "bench_include_mine").f
    finally:
        sys.path.remove(str(tmp_path))
    first = sources.sources([f])
    assert set(first) == {"mine", "neighbour"}
    (tmp_path / "neighbour.py").write_text("factor = 2\n")
    second = sources.sources([f])
    assert second["mine"] == first["mine"]
    assert second["neighbour"] != first["neighbour"]


def test_the_difference_is_said_in_words():
    old = {"seed": 0, "recipe": {"epochs": 30, "lr": 0.1}, "sources": {"m": "a" * 64}, "gone": 1}
    new = {"seed": 0, "recipe": {"epochs": 2, "lr": 0.1}, "sources": {"m": "b" * 64}}
    assert cells.difference(old, new) == ["gone: 1 → absent", "recipe.epochs: 30 → 2", "sources.m changed"]
