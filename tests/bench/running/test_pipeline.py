"""The main path on a tiny suite, through the command line: run, resume, report, errors and their exit codes."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bench
from bench.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
EVALUATIONS = """
[evaluations.accuracy]
limit = 20
[evaluations.pgd_l2]
eps = [0.1, 0.5]
steps = 5
limit = 20
[evaluations.autoattack_l2]
eps = [0.5]
limit = 20
[evaluations.curvature]
limit = 10
"""
DECISIONS = [
    "clean_correct",
    "pgd_l2_0.1_robust",
    "pgd_l2_0.5_robust",
    "autoattack_l2_0.5_robust",
    "best_known_l2_0.5_robust",
]


@pytest.fixture(scope="module")
def suite(tmp_path_factory, write_suite):
    return write_suite(tmp_path_factory.mktemp("suite") / "tiny ü.toml", ["standard", "lcnn_gradreg"], EVALUATIONS)


@pytest.fixture(scope="module")
def finished(suite, tmp_path_factory):
    """Run the tiny suite once, in a process of its own, as a user would."""
    out = tmp_path_factory.mktemp("results") / "a folder ü"
    done = subprocess.run(command("--suite", suite, "--out", out), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out, done


def command(*arguments, verb="run"):
    return [sys.executable, "-m", "bench", verb, "--train-limit", "150", *map(str, arguments)]


def decisions(out):
    table = pd.read_parquet(out / "examples.parquet")
    return table.set_index(["defense", "seed", "index"])[DECISIONS].sort_index()


def write_include(folder, body, name="my_defense"):
    path = folder / f"{name}.py"
    path.write_text(
        "import torch\nfrom torch import nn\nimport bench\nfrom bench import Recipe\n\n"
        f"@bench.defense(source='a test', recipe=Recipe(epochs=2))\n"
        f"def {name}(num_classes, in_shape, backbone, *, width: int = 4) -> nn.Module:\n"
        f"    '''Be small.'''\n{body}"
    )
    return path


LINEAR = "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Softplus(), nn.Linear(width, num_classes))\n"


def test_a_run_ends_with_the_board_and_the_page(finished):
    out, done = finished
    assert "standard" in done.stdout
    assert done.stdout.strip().endswith("leaderboard.html")
    names = {"leaderboard.html", "leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex",
             "examples.parquet", "manifest.json", "bench.db", "weights", "model_info"}  # fmt: skip
    assert names <= {p.name for p in out.iterdir()}
    board = pd.read_csv(out / "leaderboard.csv")
    assert set(board["defense"]) == {"standard", "lcnn_gradreg"}
    assert ((board["pgd_l2_0.5"] >= 0) & (board["pgd_l2_0.5"] <= board["clean_accuracy"])).all()
    assert board["eval_forwards"].gt(0).all()


def test_running_again_computes_nothing_and_changes_nothing(finished, suite, cli):
    out, _ = finished
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.suffix in (".csv", ".parquet")}
    again = cli("run", "--suite", suite, "--out", out, "--train-limit", 150)
    assert again.code == 0
    assert "12 cells, 12 cached" in again.err
    assert " s\n" not in again.err
    assert {name: (out / name).read_bytes() for name in before} == before


def test_dry_run_says_what_is_cached_and_why_the_rest_is_not(finished, suite, cli):
    out, _ = finished
    dry = cli("run", "--suite", suite, "--out", out, "--train-limit", 150, "--epochs", 4, "--dry-run")
    assert dry.code == 0
    assert "train standard seed 0: recipe.epochs: 8 → 4" in dry.out
    assert dry.out.strip().splitlines()[-1] == "cells: 12, cached: 0"
    same = cli("run", "--suite", suite, "--out", out, "--train-limit", 150, "--dry-run")
    assert same.out.strip().splitlines()[-1] == "cells: 12, cached: 12"


def test_dry_run_makes_nothing(suite, cli, tmp_path):
    dry = cli("run", "--suite", suite, "--out", tmp_path / "new", "--dry-run")
    assert dry.code == 0
    assert dry.out.strip().splitlines()[-1] == "cells: 12, cached: 0"
    assert not (tmp_path / "new").exists()


def test_report_rebuilds_deleted_exports_byte_for_byte(finished, cli):
    out, _ = finished
    names = ["leaderboard.html", "leaderboard.csv", "leaderboard.json", "examples.parquet"]
    before = {n: (out / n).read_bytes() for n in names}
    for n in names:
        (out / n).unlink()
    assert cli("report", "--out", out).code == 0
    assert {n: (out / n).read_bytes() for n in names} == before


def test_python_reads_the_results_and_the_models(finished):
    out, _ = finished
    results = bench.load_results(out)
    assert list(results.leaderboard["rank"]) == [1, 2]
    assert {"epoch", "loss", "cross_entropy", "train_accuracy"} <= set(results.logs.columns)
    state = torch.get_rng_state()
    model = bench.load_model("lcnn_gradreg", dataset="digits", seed=0, out=out)
    assert torch.equal(torch.get_rng_state(), state)
    table = bench.evaluate(model, suite="digits", evaluations=["accuracy"], limit=20)
    stored = results.examples.query("defense == 'lcnn_gradreg'").set_index("index")
    rounding = 1e-5 if torch.cuda.is_available() else 0.0  # the run was on the GPU, the loaded model is on the CPU
    np.testing.assert_allclose(table["margin"], stored["margin"].iloc[:20], rtol=0, atol=rounding)


def test_transfer_is_what_the_stored_examples_do_to_the_other_model(finished):
    """Recomputed by hand: the other row's adversarial examples, shown to this row's model."""
    out, _ = finished
    table, tried = pd.read_parquet(out / "examples.parquet"), 0
    with Store.open(out) as store:
        rows = {run.defense: run for run in store.plans.latest().rows}
        for name, other in (("standard", "lcnn_gradreg"), ("lcnn_gradreg", "standard")):
            mine = table[table["defense"] == name].set_index("index").loc[:19]
            robust = mine["clean_correct"].astype(bool).to_numpy().copy()
            found = store.images(rows[other].evaluations["autoattack_l2"])
            if found:
                tried += len(found["index"])
                with torch.no_grad():
                    guess = bench.load_model(name, out=out)(torch.tensor(found["adversarial"])).argmax(1).numpy()
                robust[found["index"][guess != mine["label"].loc[found["index"]].to_numpy()]] = False
            np.testing.assert_array_equal(mine["transfer_l2_0.5_robust"].astype(bool), robust)
            worst = robust & mine["autoattack_l2_0.5_robust"].astype(bool).to_numpy()
            np.testing.assert_array_equal(mine["best_known_l2_0.5_robust"].astype(bool), worst)
    assert tried > 0, "without adversarial examples nothing was shown"


def test_load_model_names_what_there_is(finished):
    out, _ = finished
    with pytest.raises(
        bench.core.errors.UsageError, match=r"expected a trained row, got cure seed 0\. Planned: lcnn_gradreg"
    ):
        bench.load_model("cure", out=out)
    with pytest.raises(bench.core.errors.UsageError, match="expected data set digits"):
        bench.load_model("standard", dataset="cifar10", out=out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_at_a_safe_point(suite, tmp_path, number, code):
    out = tmp_path / "stopped"
    arguments = command("--suite", suite, "--out", out, "--epochs", "400")
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while process.poll() is None and not _training(out):
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.search(r"stopped early: \d+ of 12 cells stored\. Run the same command again to go on\.", err)
    assert ("Ctrl-C again stops now" in err) == (number == signal.SIGINT)
    assert "Traceback" not in err
    assert list((out / "checkpoints").glob("*.pt"))


def _training(out):
    """Tell whether an epoch has been logged."""
    if not (out / "bench.db").exists():
        return False
    with Store.open(out) as store:
        return any(store.log(c.id) for c in store.cells("train"))


def test_a_time_limit_ends_with_75_and_the_next_run_goes_on(suite, tmp_path, cli):
    out = tmp_path / "limited"
    first = cli("run", "--suite", suite, "--out", out, "--train-limit", 150, "--time-limit", "0.01s")
    assert first.code == 75
    second = cli("run", "--suite", suite, "--out", out, "--train-limit", 150, "--defense", "standard")
    assert second.code == 0


def test_a_training_that_was_stopped_goes_on_bit_equal(suite, tmp_path):
    import torch

    from bench.core import registry
    from bench.core.errors import Stopped
    from bench.core.recipe import PAPER, Recipe
    from bench.data import catalog
    from bench.training.loop import TrainJob, train

    digits = catalog.load("digits", train_limit=150, limit=4)
    entry = registry.defenses.get("adversarial_training")
    recipe = PAPER.with_overrides(
        Recipe(epochs=3, batch_size=50, schedule="onecycle", augment="crop_flip"), entry.recipe
    )
    job = TrainJob(entry, dict(entry.hyperparameters), recipe, "convnet", 10, digits.shape, 0, digits.train)
    whole = train(job, torch.device("cpu")).state_dict()
    path, steps = tmp_path / "checkpoint.pt", iter(range(100))
    with pytest.raises(Stopped):
        train(job, torch.device("cpu"), checkpoint=path, should_stop=lambda: next(steps) == 4)
    _, _, saved = path.read_bytes().partition(b"\n")
    before, log = torch.load(io.BytesIO(saved), weights_only=True)["time"]["cpu"], []
    resumed = train(job, torch.device("cpu"), checkpoint=path, on_epoch=log.append).state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    assert log[0].epoch == 2
    assert log[0].time.cpu > before > 0, "times of an epoch's two parts add up"


def test_every_training_stores_its_cost_and_threads(finished):
    out, _ = finished
    manifest = json.loads((out / "manifest.json").read_text())
    flops = {}
    for row in manifest["rows"]:
        training = row["training"]
        assert 0 < training["cpu_seconds"] <= training["wall_seconds"] * 1.01
        assert training["threads"] == manifest["environment"]["threads"]
        assert training["flops_counted"] == "on 4 images"
        flops[row["defense"]] = training["flops_per_image"]
        # The thread that shows the progress is counted as well: milliseconds, beside evaluations of milliseconds.
        assert all(0 < e["cpu_seconds"] <= e["wall_seconds"] * 1.01 + 0.1 for e in row["evaluations"].values())
    assert 2.0 < flops["lcnn_gradreg"] / flops["standard"] < 2.3


def test_two_runs_share_one_folder(finished, suite, tmp_path):
    out = tmp_path / "shared"
    arguments = command("--suite", suite, "--out", out)
    pair = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in "ab"
    ]
    texts = [p.communicate(timeout=300)[1] for p in pair]
    assert [p.returncode for p in pair] == [0, 0], texts
    with Store.open(out) as store:
        assert all(c.status == "done" for kind in ("train", "evaluation") for c in store.cells(kind))
    pd.testing.assert_frame_equal(decisions(out), decisions(finished[0]))


def test_no_wait_ends_with_7(suite, tmp_path, cli):
    from bench.running.prepare import Options, prepare

    out = tmp_path / "held"
    plan = prepare(Options(suite=str(suite), out=out, narrow={"defenses": ("standard",), "train_limit": 150}))
    with Store.open(out, create=True) as store:
        assert store.leases.claim(plan.runs[0].cell.id, "train", {})
        held = cli("run", "--suite", suite, "--out", out, "--defense", "standard", "--train-limit", 150, "--no-wait")
    assert held.code == 7
    assert f"process {os.getpid()}" in held.err
    assert "Wait for it" in held.err


def test_no_wait_says_that_a_holder_elsewhere_cannot_be_seen(suite, tmp_path, cli):
    from bench.running.prepare import Options, prepare
    from tests.bench.store.folders import change

    out = tmp_path / "held"
    plan = prepare(Options(suite=str(suite), out=out, narrow={"defenses": ("standard",), "train_limit": 150}))
    with Store.open(out, create=True) as store:
        assert store.leases.claim(plan.runs[0].cell.id, "train", {})
    change(out, "UPDATE cells SET owner=json_object('host', 'gone', 'pid', 1, 'start', 0)", seal="cells")
    held = cli("run", "--suite", suite, "--out", out, "--defense", "standard", "--train-limit", 150, "--no-wait")
    assert held.code == 7
    assert "gone, process 1" in held.err
    assert "cannot be seen from here: without --no-wait its cells are taken over once it has given no sign" in held.err
    assert "for 120 s" in held.err


def test_an_edited_defense_is_computed_anew_and_an_unedited_one_is_not(suite, tmp_path, cli):
    out = tmp_path / "edited"
    arguments = ("run", "--suite", suite, "--out", out, "--train-limit", 150, "--defense", "my_defense",
                 "--evaluation", "accuracy")  # fmt: skip
    path = write_include(tmp_path, LINEAR)

    def in_new_process(*extra):
        call = [sys.executable, "-m", "bench", *map(str, arguments), "--include", str(path), *extra]
        done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done

    in_new_process()
    assert "cells: 2, cached: 2" in in_new_process("--dry-run").stdout
    text = path.read_text()
    path.write_text(text.replace("Be small.", "Be smaller."))  # a docstring
    assert "cells: 2, cached: 2" in in_new_process("--dry-run").stdout
    path.write_text(text + "\nEDITED = 1\n")
    dry = in_new_process("--dry-run").stdout
    assert "sources changed: my_defense.py" in dry
    assert "cells: 2, cached: 0" in dry


ROUNDED = """
import torch
from torch import nn
from bench import Recipe, defense

class Rounded(nn.Module):
    def __init__(self, inner, levels):
        super().__init__()
        self.inner, self.levels = inner, levels

    def forward(self, x):
        return self.inner(x if self.training else (x * self.levels).round() / self.levels)

@defense(source="here", recipe=Recipe(epochs=3, batch_size=30, lr=0.1))
def rounded(num_classes, in_shape, backbone, *, levels: int = 255):
    n = in_shape[0] * in_shape[1] * in_shape[2]
    return Rounded(nn.Sequential(nn.Flatten(), nn.Linear(n, num_classes)), levels)
"""


def test_two_test_time_defenses_on_the_same_weights_are_two_rows(suite, tmp_path, cli):
    path, out = tmp_path / "rounding.py", tmp_path / "rounded"
    path.write_text(ROUNDED)
    arguments = ("run", "--suite", suite, "--out", out, "--train-limit", 150, "--include", path, "--evaluation",
                 "accuracy", "--seeds", "0")  # fmt: skip
    done = cli(*arguments, "--defense", "rounded:levels=255", "--defense", "rounded:levels=1")
    assert done.code == 0, done.err
    with Store.open(out) as store:
        assert len({c.info["weights"] for c in store.cells("train")}) == 1  # rounding changes no weight
        assert len(store.cells("evaluation")) == 2
    clean = pd.read_csv(out / "leaderboard.csv").set_index("defense")["clean_accuracy"]
    assert clean["rounded:levels=1"] != clean["rounded:levels=255"]
    assert clean["rounded:levels=255"] > 0.5


def test_a_failed_cell_leaves_the_others_alone(suite, tmp_path, cli):
    path = write_include(tmp_path, "    raise RuntimeError('no such layer')\n", name="broken_defense")
    out = tmp_path / "failed"
    done = cli("run", "--suite", suite, "--out", out, "--train-limit", 150, "--include", path, "--defense",
               "broken_defense", "--defense", "standard", "--evaluation", "accuracy")  # fmt: skip
    assert done.code == 1
    assert "broken_defense seed 0: RuntimeError: no such layer" in done.err
    assert "Traceback" not in done.err
    assert set(pd.read_csv(out / "leaderboard.csv")["defense"]) >= {"standard"}


def test_a_diverged_training_names_the_epoch(suite, tmp_path, cli):
    out = tmp_path / "diverged"
    done = cli("run", "--suite", suite, "--out", out, "--train-limit", 150, "--defense", "vanilla:lr=1e30",
               "--evaluation", "accuracy")  # fmt: skip
    assert done.code == 1
    assert "expected finite losses and weights" in done.err
    assert "epoch 1" in done.err


def test_a_model_that_is_not_finite_is_failed_never_robust(suite, tmp_path, cli):
    body = (
        "    class Bad(nn.Module):\n        def __init__(self):\n            super().__init__()\n"
        "            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "        def forward(self, x):\n            z = self.net(x)\n"
        "            return z if self.training else z / 0 * 0\n    return Bad()\n"
    )
    path = write_include(tmp_path, body, name="nan_defense")
    done = cli("run", "--suite", suite, "--out", tmp_path / "nan", "--train-limit", 150, "--include", path,
               "--defense", "nan_defense", "--evaluation", "accuracy")  # fmt: skip
    assert done.code == 1
    assert "expected finite logits" in done.err


def test_weights_that_were_changed_are_refused_and_missing_ones_trained_anew(suite, tmp_path, cli):
    out = tmp_path / "weights"
    arguments = (
        "run",
        "--suite",
        suite,
        "--out",
        out,
        "--train-limit",
        150,
        "--defense",
        "standard",
        "--deterministic",
    )
    assert cli(*arguments, "--evaluation", "accuracy").code == 0
    weights = next(p for p in (out / "weights").glob("*.safetensors"))
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    damaged = cli(*arguments, "--evaluation", "curvature")
    assert damaged.code == 3
    assert "expected weights with SHA-256" in damaged.err
    weights.unlink()
    again = cli(*arguments, "--evaluation", "curvature")
    assert again.code == 0
    assert "training anew" in again.err
    assert weights.read_bytes() == good


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "--suite", "digit"), 2, "Did you mean 'digits'"),
        (("run", "--suite", "digits", "--defense", "lcn"), 2, "Did you mean 'lcnn'"),
        (("run", "--suite", "digits", "--defense", "lcnn:lambda_bet=1"), 2, "Did you mean 'lambda_beta'"),
        (("run", "--suite", "digits", "--evaluation", "acuracy"), 2, "Did you mean 'accuracy'"),
        (("run", "--suite", "digits", "--seeds", "0,x"), 2, "expected whole numbers"),
        (("run", "--suite", "digits", "--seeds", "1,1"), 2, "Name each seed once"),
        (("run", "--suite", "digits", "--device", "tpu"), 2, "expected auto, cpu, cuda or cuda:i"),
        (("run", "--suite", "digits", "--batch-size", "0"), 2, "expected auto or a number"),
        (("run", "--suite", "digits", "--time-limit", "soon"), 2, "expected a duration"),
        (("run", "--suite", "digits", "--engine", "rai"), 2, "expected local, parts, ray, slurm, got"),
        (("run", "--suite", "digits", "--backbone", "resnet19"), 2, "resnet18"),
        (("run", "--suite", "digits", "--include", "nowhere.py"), 2, "expected a Python file"),
        (("run", "--suite", "digits", "--data", "nowhere"), 2, "nowhere"),
        (("run", "--suite", "digits", "--attack-peer", "cleverhands"), 2, "Did you mean 'cleverhans'"),
        (("run", "--limits", "3"), 2, "--limit"),
        (("list", "defences"), 2, "Did you mean 'defenses'"),
        (("report", "--out", "nowhere"), 4, "expected a result folder with bench.db"),
        (("evaluate", "--suite", "digits", "--model", "m.py:f"), 2, "--model: expected a Python file, got 'm.py'"),
        (("verify", "--out", "x"), 4, "expected a result folder with bench.db"),
        (("frobnicate",), 2, "frobnicate"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_wrong_usage_is_one_line(cli, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments)
    assert done.code == code, done.err
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_no_gpu_for_a_gpu_request_is_said(cli):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = cli("run", "--suite", "digits", "--device", "cuda")
    assert done.code == 4
    assert "expected a GPU, found 0" in done.err


def test_no_data_and_no_network_is_4_in_one_line(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    done = cli("run", "--suite", "cifar10", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert done.code == 4
    assert len(done.err.strip().splitlines()) == 1
    assert "cifar-10-python.tar.gz" in done.err


def test_a_folder_that_cannot_be_written_is_4(cli, suite, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli("run", "--suite", suite, "--out", tmp_path / "file" / "out", "--train-limit", 150)
    assert done.code == 4
    assert "expected to write here" in done.err


@pytest.mark.parametrize("kind", ["defenses", "attacks", "evaluations", "suites", "datasets"])
def test_lists_are_arrays_of_records(cli, kind):
    records = json.loads(cli("list", kind, "--json").out)
    assert records
    for r in records:
        assert {"name", "source", "version", "hyperparameters"} <= set(r)
    assert cli("list", kind).code == 0
    if kind == "evaluations":
        assert all(r["columns"] for r in records)


def test_compare_says_what_differs_and_gates(finished, cli):
    out, _ = finished
    done = cli("compare", "--out", out, "standard", "lcnn_gradreg")
    assert done.code == 0
    assert "clean_accuracy" in done.out
    assert "no difference shown" in done.out
    same = cli("compare", out, out, "--fail-on-regression")
    assert same.code == 0
    assert "regression:" not in same.out
    assert cli("compare", "--out", out, "standard", "lcn_gradreg").code == 2
