"""Third parties' files travel to workers as content: all that the keys of the plan's cells count, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.core import files
from bench.core.errors import SecurityError, UsageError
from bench.core.hashing import sha256_of
from bench.running import prepare
from bench.running.remote.included import Included, included_files
from bench.running.remote.orders import Order
from bench.running.remote.work import Worker
from bench.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
TEXTS = {
    "travels.py": """
from pathlib import Path
import torch
from torch import nn
from torch.nn import functional as F
from bench import Recipe, defense
import travels_at_once

HERE = Path(__file__).parent

def loss(model, x, y):
    from travels_in_the_loss import WEIGHT
    return {"loss": WEIGHT * F.cross_entropy(model(x), y)}

@defense(source="here", recipe=Recipe(epochs=1, batch_size=50, lr=0.1, loss=loss), depends_on=["named/by_author.txt"])
def travels(num_classes, in_shape, backbone, *, scale: float = 1.0):
    from travels_late import scaled
    with open(HERE / "tables" / f"scale-{scale:g}.txt") as file:
        return scaled(num_classes, float(file.read()))
""",
    "travels_at_once.py": "VALUE = 7\n",
    "travels_late.py": """
from torch import nn

class Scaled(nn.Module):
    def __init__(self, classes, factor):
        super().__init__()
        self.factor, self.net = factor, nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x):
        return self.factor * self.net(x)

def scaled(classes, factor):
    return Scaled(classes, factor)
""",
    "travels_in_the_loss.py": "WEIGHT = 0.5\n",
    "tables/scale-1.txt": "2.0",
    "tables/scale-3.txt": "3.0",
    "named/by_author.txt": "x",
    "not_needed.py": "1 / 0\n",
    "measures.py": """
from pathlib import Path
import numpy as np
from bench import Column, evaluation

@evaluation(source="here", columns={"travelled_mean": Column("Mean.")}, chunk=4)
def travelled(model, x, y, *, seed=0):
    from travels_late import Scaled
    shift = float(np.load(Path(__file__).parent / "shift.npy"))
    return {"travelled_mean": x.mean((1, 2, 3)) + shift + isinstance(model, Scaled)}
""",
}
AT_IMPORT = {"travels.py", "travels_at_once.py", "measures.py"}
CALLED = {"travels_late.py", "travels_in_the_loss.py", "tables/scale-1.txt", "named/by_author.txt", "shift.npy"}


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> Path:
    """Return a folder with a defense and an evaluation that need files when they are called; imported once."""
    folder = tmp_path_factory.mktemp("home") / "code"
    for name, text in TEXTS.items():
        files.write_bytes(folder / name, text.encode())
    np.save(folder / "shift.npy", 0.25)
    return folder


@pytest.fixture
def suite(tmp_path: Path, write_suite) -> Path:
    evaluations = "[evaluations.accuracy]\nlimit = 8\n[evaluations.travelled]\nlimit = 8\n"
    return write_suite(tmp_path / "tiny.toml", ["travels"], evaluations, epochs=1)


def test_what_is_read_or_imported_only_when_it_is_called_travels_too(code: Path, suite: Path, tmp_path: Path) -> None:
    included = (str(code / "travels.py"), str(code / "measures.py"))
    plan = prepare.prepare(
        prepare.Options(suite=str(suite), narrow={"train_limit": 100}, included=included, out=tmp_path / "r")
    )
    blobs = dict[str, bytes]()
    found = included_files(plan, lambda content: blobs.setdefault(sha256_of(content), content) and sha256_of(content))
    assert found.imported == ("0/travels.py", "0/measures.py")
    assert set(found.files) == {f"0/{name}" for name in AT_IMPORT | CALLED}
    for name, sha256 in found.files.items():
        assert blobs[sha256] == (code / name.removeprefix("0/")).read_bytes()
    assert str(code) not in "".join([*found.files, *found.imported])
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("x")
    run = plan.runs[0]
    defense = replace(run.job.defense, depends_on=(elsewhere,))
    moved = replace(plan, runs=(replace(run, job=replace(run.job, defense=defense)),))
    with pytest.raises(UsageError, match=r"expected files below code/, got elsewhere\.txt elsewhere"):
        included_files(moved, sha256_of)


@pytest.mark.slow
def test_a_worker_that_never_saw_the_folder_computes_the_bits_of_the_local_engine(
    code: Path, suite, tmp_path, cli
) -> None:
    parts, content = tmp_path / "parts", {}
    options = ["--suite", suite, "--train-limit", "100", "--deterministic", "--quiet"]
    for name, command in {"r": ["collect", "--parts", parts], "local": ["run"]}.items():
        out = tmp_path / name
        included = ["--include", code / "travels.py", "--include", code / "measures.py"]
        while (done := cli(*command, *options, "--out", out, *included)).code == 75:
            code.rename(tmp_path / "away")
            worker = [sys.executable, "-m", "bench", "work", str(parts)]
            said = subprocess.run(
                worker, capture_output=True, text=True, timeout=300, cwd="/", env={"PYTHONPATH": str(ROOT)}
            )
            (tmp_path / "away").rename(code)
            assert said.returncode == 0, said.stderr
        assert done.code == 0, done.err
        with Store.open(out) as store:
            chunks = store._database.query("SELECT cell, number, sha256 FROM chunks ORDER BY 1, 2")
            content[name] = [tuple(row) for row in chunks], {c.info["weights"] for c in store.cells("train")}
    assert content["r"] == content["local"]
    assert len(content["r"][0]) >= 3


class Folder:
    """Gives a worker blobs from a dictionary."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.blobs = blobs

    def blob(self, sha256: str) -> bytes:
        return self.blobs[sha256]

    def array(self, sha256: str) -> np.ndarray:
        raise KeyError(sha256)


@pytest.mark.parametrize("path", ["../evil.py", "/evil.py", "a/../../evil.py"])
@pytest.mark.parametrize("written", [True, False])
def test_an_included_file_is_nowhere_but_in_the_workers_folder(path: str, written: bool) -> None:
    content = b"raise SystemExit\n"
    worker, supply = Worker(), Folder({sha256_of(content): content})
    given = Included({path if written else "0/a.py": sha256_of(content)}, (path,))
    order = Order("c", "evaluation", (0, 1), "w", "t", files=given.files, included=given.imported)
    try:
        with pytest.raises(SecurityError, match="expected a path below its folder, got one outside it"):
            worker._include(order, supply)
        assert list(worker._scratch.rglob("*")) == []
    finally:
        worker._holder.cleanup()
