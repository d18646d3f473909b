"""A trained network is more than its state_dict: what is loaded is what was measured, or it is refused."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.core.errors import IntegrityError
from bench.running import pipeline
from bench.running.prepare import Options
from bench.store import seals
from bench.store.status import run_status

ROOT = Path(__file__).resolve().parents[3]
EVALUATIONS = """
[evaluations.accuracy]
limit = 40
[evaluations.pgd_l2]
eps = [0.5]
steps = 3
limit = 20
"""
HEAD = """
import random
import numpy as np
import torch
from torch import nn
from bench import Recipe, defense

SMALL = Recipe(epochs=2, batch_size=50, lr=0.1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.flatten, self.first, self.last = nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10)

    def forward(self, x):
        return self.last(torch.nn.functional.softplus(self.first(self.flatten(x))))
"""
SOUND = {
    "projected": """
class Projected(Net):
    def __init__(self):
        super().__init__()
        self.matrices = [torch.randn(64, 64) / 8]
        self.offset = np.random.rand(64).astype(np.float32)
        self.scale = random.uniform(0.5, 2.0)

    def forward(self, x):
        return super().forward(x.flatten(1) @ self.matrices[0] * self.scale + torch.from_numpy(self.offset))

@defense(source="here", recipe=SMALL)
def projected(num_classes, in_shape, backbone):
    return Projected()
""",
    "unsaved": """
class Unsaved(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.rand(64), persistent=False)

    def forward(self, x):
        return super().forward(x.flatten(1) * self.mask)

@defense(source="here", recipe=SMALL)
def unsaved(num_classes, in_shape, backbone):
    return Unsaved()
""",
    "tied": """
class Tied(Net):
    def __init__(self):
        super().__init__()
        self.middle = nn.Linear(10, 10)
        self.last.weight = self.middle.weight
        self.register_buffer("view", self.middle.weight.detach()[:2])

    def forward(self, x):
        z = nn.functional.softplus(self.first(x.flatten(1)))
        return self.last(self.middle(z)) + self.view.sum()

@defense(source="here", recipe=SMALL)
def tied(num_classes, in_shape, backbone):
    return Tied()
""",
    "extra_tensor": """
class Extra(Net):
    def __init__(self):
        super().__init__()
        self.factor = torch.full((2,), 3.0)

    def get_extra_state(self):
        return self.factor

    def set_extra_state(self, state):
        self.factor = state

    def forward(self, x):
        return super().forward(x) * self.factor[0]

@defense(source="here", recipe=SMALL)
def extra_tensor(num_classes, in_shape, backbone):
    return Extra()
""",
    "lazy": """
@defense(source="here", recipe=SMALL)
def lazy(num_classes, in_shape, backbone):
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(num_classes))
    return model
""",
    "parametrized": """
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

@defense(source="here", recipe=SMALL)
def parametrized(num_classes, in_shape, backbone):
    layers = [orthogonal(nn.Linear(64, 64)), spectral_norm(nn.Linear(64, 32)), weight_norm(nn.Linear(32, num_classes))]
    return nn.Sequential(nn.Flatten(), layers[0], nn.Softplus(), layers[1], nn.Softplus(), layers[2])
""",
    "compiled": """
@defense(source="here", recipe=SMALL)
def compiled(num_classes, in_shape, backbone):
    return nn.Sequential(nn.Flatten(), torch.compile(nn.Linear(64, num_classes), backend="eager"))
""",
    "tupled": """
class Tupled(Net):
    def __init__(self, widths):
        super().__init__()
        assert isinstance(widths, tuple), widths

@defense(source="here", recipe=SMALL)
def tupled(num_classes, in_shape, backbone, *, widths: tuple = (1, 2)):
    return Tupled(widths)
""",
    "odd_types": """
class Odd(Net):
    def __init__(self):
        super().__init__()
        for dtype in (torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.complex64, torch.float64):
            self.register_buffer("of_" + str(dtype).split(".")[1], torch.ones(3).to(dtype))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("transposed", torch.rand(3, 4).T)
        self.register_buffer("nothing", None)

@defense(source="here", recipe=SMALL)
def odd_types(num_classes, in_shape, backbone):
    return Odd()
""",
}


def run(suite, out, path, *defenses, evaluations=("accuracy",)):
    """Run some defenses of an included file in this process, on the CPU: they keep tensors outside their state."""
    narrow = {"defenses": defenses, "evaluations": evaluations, "train_limit": 150}
    return pipeline.run(Options(str(suite), narrow, out=out, included=(str(path),), quiet=True, device="cpu"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory, write_suite):
    return write_suite(tmp_path_factory.mktemp("suite") / "tiny.toml", ["standard"], EVALUATIONS, epochs=2)


@pytest.fixture(scope="module")
def trained(suite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    path = folder / "sound_defenses.py"
    path.write_text(HEAD + "".join(SOUND.values()))
    result = run(suite, folder / "out", path, *SOUND)
    assert result.failures == {}
    return folder / "out", path


@pytest.mark.parametrize("name", SOUND)
def test_a_loaded_network_is_the_one_that_was_measured(trained, name):
    out, _ = trained
    torch.manual_seed(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = bench.load_model(name, out=out)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    table = bench.evaluate(model, suite="digits", evaluations=["accuracy"], limit=40)
    stored = pd.read_parquet(out / "examples.parquet").query("defense == @name").set_index("index")["margin"]
    np.testing.assert_array_equal(table["margin"].to_numpy(np.float32), stored.to_numpy(np.float32))


def test_another_process_loads_the_same_network_once_the_file_is_imported(trained, tmp_path):
    out, path = trained
    script = (
        "import sys, torch, bench\n"
        "try:\n    bench.load_model('tied', out=sys.argv[1])\n"
        "except bench.core.errors.UsageError as error:\n    print(error)\n"
        "sys.path.append(sys.argv[2])\nimport sound_defenses\n"
        "for name in sys.argv[3:]:\n"
        "    with torch.no_grad():\n"
        "        print(bench.load_model(name, out=sys.argv[1])(torch.full((1, 1, 8, 8), 0.5)).tolist())\n"
    )
    call = [sys.executable, "-c", script, str(out), str(path.parent), *SOUND]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    first, *logits = done.stdout.strip().splitlines()
    assert first == 'load_model: expected the file of tied, got none. Add include="FILE.py".'
    for name, text in zip(SOUND, logits, strict=True):
        with torch.no_grad():
            mine = bench.load_model(name, out=out)(torch.full((1, 1, 8, 8), 0.5))
        torch.testing.assert_close(torch.tensor(json.loads(text)), mine)


def test_tied_weights_are_tied_after_loading(trained):
    model = bench.load_model("tied", out=trained[0])
    assert model.last.weight is model.middle.weight
    assert model.view.data_ptr() == model.middle.weight.data_ptr()
    assert torch.equal(model.view, model.middle.weight[:2])


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch's compiler, about its own tensors
def test_evaluations_that_are_added_later_measure_the_same_network(trained, suite):
    out, path = trained
    assert run(suite, out, path, *SOUND, evaluations=("accuracy", "pgd_l2")).failures == {}
    table = pd.read_parquet(out / "examples.parquet").query("index < 20")
    assert not (table["pgd_l2_0.5_robust"].astype(bool) & ~table["clean_correct"].astype(bool)).any()


# What the file's factory returns, and the words of the refusal.
REFUSED_WHEN_PLANNED = {
    "extra state": (
        "class Bad(Net):\n    def get_extra_state(self):\n        return {'step': 1}\n"
        "    def set_extra_state(self, state):\n        pass\n",
        "extra state of type dict in _extra_state",
    ),
    "double complex": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('phase', torch.ones(2, dtype=torch.complex128))\n",
        "torch.complex128 in phase",
    ),
    "sparse": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('mask', torch.eye(3).to_sparse())\n",
        "a torch.sparse_coo tensor in mask",
    ),
    "quantised": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('q', torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))\n",
        "a quantized tensor in q",
    ),
    "without values": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.last = nn.Linear(10, 10, device='meta')\n",
        "a meta tensor in last.weight",
    ),
}
REFUSED_BEFORE_TRAINING = {
    "expanded": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('wide', torch.zeros(1).expand(4))\n",
        "loads its own state_dict, got RuntimeError",
    ),
    "not in the state": (
        "class Bad(Net):\n    def state_dict(self, *args, **kwargs):\n"
        "        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if 'first' not in k}\n"
        "    def load_state_dict(self, state, strict=True, assign=False):\n"
        "        return super().load_state_dict(state, strict=False)\n",
        "the same network after it is saved, built anew and loaded",
    ),
    "drawn without a seed": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.mask = torch.from_numpy(np.random.default_rng().random(64, dtype=np.float32))\n"
        "    def forward(self, x):\n        return super().forward(x.flatten(1) * self.mask)\n",
        "the same network after it is saved, built anew and loaded",
    ),
    "set by the epoch": (
        "class Bad(Net):\n    scale = 1.0\n"
        "    def set_epoch(self, epoch):\n        self.scale = 1.0 + epoch\n        return True\n"
        "    def forward(self, x):\n        return super().forward(x) * self.scale\n",
        "the same network after it is saved, built anew and loaded",
    ),
    "set at the end": (
        "class Bad(Net):\n    scale = 1.0\n    def finalize(self):\n        self.scale = 2.0\n"
        "    def forward(self, x):\n        return super().forward(x) * self.scale\n",
        "the same network after it is saved, built anew and loaded",
    ),
    "no module": ("def Bad():\n    return lambda x: x\n", "expected a torch.nn.Module, got function"),
    "lazy for ever": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.unused = nn.LazyLinear(3)\n",
        "initialises, got unused.weight",
    ),
    "too many logits": (
        "class Bad(Net):\n    def forward(self, x):\n        return super().forward(x).repeat(1, 2)\n",
        "expected 10 classes, got 20",
    ),
}
REFUSED_AFTER_THE_FIRST_EPOCH = {
    "counts steps": (
        "class Bad(Net):\n    steps = 0\n    def forward(self, x):\n"
        "        self.steps += self.training\n        return super().forward(x) * (1 + self.steps)\n",
        "the same network after it is saved, built anew and loaded",
    ),
    "unsaved statistics": (
        "class Bad(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.register_buffer('mean', torch.zeros(64), persistent=False)\n"
        "    def forward(self, x):\n        x = x.flatten(1)\n        if self.training:\n"
        "            self.mean = x.mean(0)\n        return super().forward(x - self.mean)\n",
        "the same network after it is saved, built anew and loaded",
    ),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Return the file whose defense builds `Bad()`: one for all tests, since its name is registered once."""
    return tmp_path_factory.mktemp("bad") / "bad_defenses.py"


def refused(path, code):
    """Write that file, and return its path."""
    made = '@defense(source="here", recipe=SMALL)\ndef bad(num_classes, in_shape, backbone):\n    return Bad()\n'
    path.write_text(f"{HEAD}\n{code}\n{made}")
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")  # quantised tensors are deprecated
@pytest.mark.parametrize("case", REFUSED_WHEN_PLANNED)
def test_what_no_file_can_hold_is_refused_before_anything_is_computed(suite, tmp_path, cli, bad, case):
    code, words = REFUSED_WHEN_PLANNED[case]
    out, path = tmp_path / "out", refused(bad, code)
    done = cli("run", "--suite", suite, "--out", out, "--defense", "standard", "--defense", "bad", "--include", path)
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("case", REFUSED_BEFORE_TRAINING)
def test_what_could_not_be_measured_afterwards_is_not_trained(suite, tmp_path, bad, case):
    code, words = REFUSED_BEFORE_TRAINING[case]
    result = run(suite, tmp_path / "out", refused(bad, code), "bad")
    assert result.code == 1
    assert words in result.failures["bad seed 0"]
    assert "\n" not in result.failures["bad seed 0"]
    assert bench.load_results(tmp_path / "out").logs.empty


@pytest.mark.parametrize("case", REFUSED_AFTER_THE_FIRST_EPOCH)
def test_what_training_changes_outside_the_state_is_found_after_one_epoch(suite, tmp_path, bad, case):
    code, words = REFUSED_AFTER_THE_FIRST_EPOCH[case]
    result = run(suite, tmp_path / "out", refused(bad, code), "bad")
    assert result.code == 1
    assert words in result.failures["bad seed 0"]
    (row,) = run_status(tmp_path / "out").rows
    assert words in row.failed["train"]


EDITED = """
@defense(source="here", recipe=SMALL)
def edited(num_classes, in_shape, backbone):
    return Net()
"""


def test_edited_code_is_refused_by_name_and_loaded_on_request(suite, tmp_path):
    path, out = tmp_path / "edited_defense.py", tmp_path / "out"
    path.write_text(HEAD + EDITED)
    assert run(suite, out, path, "edited").failures == {}
    with torch.no_grad():
        before = bench.load_model("edited", out=out)(torch.ones(1, 1, 8, 8))
    path.write_text("# A comment.\n" + HEAD + EDITED + "UNUSED = 1\n")
    bench.core.discovery.include(path)
    with pytest.raises(IntegrityError, match=r"edited seed 0: .*got changes in edited_defense\.py"):
        bench.load_model("edited", out=out)
    with torch.no_grad():
        after = bench.load_model("edited", out=out, allow_changed_sources=True)(torch.ones(1, 1, 8, 8))
    assert torch.equal(before, after)
    path.write_text(HEAD.replace("softplus", "relu") + EDITED)
    bench.core.discovery.include(path)
    with pytest.raises(IntegrityError, match="expected the logits that were stored when it was trained"):
        bench.load_model("edited", out=out, allow_changed_sources=True)


def test_weights_of_another_row_are_refused(trained, suite, tmp_path):
    """The same architecture: each file is whole and fits, but the store has them the wrong way round."""
    _, path = trained
    out = tmp_path / "out"
    names = ("tupled", "tupled:lr=0.05")
    assert run(suite, out, path, *names).failures == {}
    with sqlite3.connect(out / "bench.db") as db:
        rows = [(i, json.loads(t)) for i, t in db.execute("SELECT id, info FROM cells WHERE kind='train'")]
        for (cell, info), (_, other) in zip(rows, reversed(rows), strict=True):
            info["weights"] = other["weights"]
            db.execute("UPDATE cells SET info=? WHERE id=?", (json.dumps(info), cell))
        db.row_factory = sqlite3.Row
        seals.seal(db, "cells", "true", {})
    db.close()
    with pytest.raises(IntegrityError, match=r"tupled seed 0: expected the logits that were stored"):
        bench.load_model("tupled", out=out)
    with pytest.raises(IntegrityError, match=r"tupled seed 0: expected the logits that were stored"):
        run(suite, out, path, *names)


def test_a_file_that_the_factory_reads_is_part_of_the_key_and_its_late_module_too(suite, tmp_path, cli):
    path, out = tmp_path / "reading.py", tmp_path / "out"
    (tmp_path / "late_part.py").write_text("WIDTH = 3\n")
    (tmp_path / "scale.txt").write_text("2.0")
    path.write_text(
        HEAD + "import functools, importlib\nfrom pathlib import Path\n\n"
        "@functools.cache\ndef scale():\n    return float(Path(__file__).with_name('sc' + 'ale.txt').read_text())\n"
        + "".join(
            f"@defense(source='here', recipe=SMALL)\ndef {name}(num_classes, in_shape, backbone):\n"
            "    width = importlib.import_module('late' + '_part').WIDTH\n"
            "    first = nn.Linear(64, width)\n    first.weight.data.mul_(scale())\n"
            "    return nn.Sequential(nn.Flatten(), first, nn.Linear(width, num_classes))\n"
            for name in ("one", "two")
        )
    )
    arguments = ("run", "--suite", suite, "--out", out, "--train-limit", 150, "--include", path, "--evaluation",
                 "accuracy", "--defense", "one", "--defense", "two")  # fmt: skip
    assert cli(*arguments).code == 0
    for chosen in (arguments, arguments[:-2], (*arguments[:-4], "--defense", "two")):
        assert "sources changed" not in cli(*chosen, "--dry-run").out
    assert "cached: 4" in cli(*arguments, "--dry-run").out
    for file, content in (("scale.txt", "3.0"), ("late_part.py", "WIDTH = 44\n")):
        (tmp_path / file).write_text(content)
        dry = cli(*arguments, "--dry-run").out
        assert dry.count(f"sources changed: {file}") == 2
        assert cli(*arguments).code == 0
        assert "cached: 4" in cli(*arguments, "--dry-run").out
        assert "cached: 2" in cli(*arguments[:-4], "--defense", "two", "--dry-run").out
    assert bench.load_model("one", out=out)[1].out_features == 44
