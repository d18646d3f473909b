"""`list` from what an earlier one found: the same text without torch, and never an old or damaged one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401  # loaded, as where entries register

from bench.cli import listing, remembered
from tests.conftest import ROOT

KIND = "evaluations"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # for `remembered` alone, which imports nothing
    return tmp_path / remembered.KEPT


def one() -> list[dict[str, object]]:
    return [{"name": "one", "hyperparameters": {"eps": [0.1, 1]}, "norms": ("l2",)}]


def never() -> list[dict[str, object]]:
    raise AssertionError("asked the registry")


def test_a_second_reading_asks_no_registry_and_says_the_same(kept: Path) -> None:
    first = remembered.remembered(KIND, one)
    assert first == json.loads(json.dumps(one()))
    assert remembered.remembered(KIND, never) == first


def test_a_changed_source_or_a_damaged_file_is_found_anew(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered.remembered(KIND, one)
    (path,) = kept.iterdir()
    path.write_text(path.read_text().replace('"one"', '"two"'))
    assert remembered.remembered(KIND, one)[0]["name"] == "one"
    monkeypatch.setattr(remembered, "VERSION", "another")
    with pytest.raises(AssertionError, match="asked the registry"):
        remembered.remembered(KIND, never)
    remembered.remembered(KIND, one)
    assert path not in kept.iterdir()  # the old one is removed
    assert len(list(kept.iterdir())) == 1


def test_with_torch_loaded_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    assert remembered.remembered(KIND, one) == one()
    assert not list(tmp_path.iterdir())


def test_the_command_imports_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = listing.entries(KIND)
    with monkeypatch.context() as without:
        without.setenv("BENCH_DATA", str(tmp_path))
        without.delitem(sys.modules, "torch")
        remembered.remembered(KIND, lambda: [dict(record) for record in records])
    code = (
        "import sys; from bench.cli.app import main; sys.argv = ['bench', 'list', 'evaluations', '--json']\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules"
    )
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "BENCH_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(records))
