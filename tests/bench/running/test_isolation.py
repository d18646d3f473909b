"""Code that is not ours ends its cell, never the command: real processes that exit, crash, hang, flood and starve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench import Column, evaluation
from bench.core import discovery, registry, user_code
from bench.core.errors import UsageError
from bench.core.process_state import process_state_kept
from bench.core.processes import deadly, how_it_ended
from bench.data import catalog
from bench.data.pixels import to_unit
from bench.running import child, pipeline, prepare
from bench.store.status import run_status
from bench.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are copied on Linux alone")
FILE = '''
import ctypes, os, signal, sys, time
import torch
from torch import nn
from torch.nn import functional as F
from bench import Column, Recipe, attack, defense, evaluation
from bench.models.defenses.standard import standard

SMALL = Recipe(epochs=1, batch_size=50, lr=0.1)
flooded = []


def act(how):
    """Do something to the process."""
    if how == "exit":
        os._exit(0)
    if how == "sysexit":
        sys.exit(0)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory runs out
    if how == "hang":
        time.sleep(1000)
    if how == "memory":
        torch.empty(1 << 50)
    if how == "tell":
        with open(__file__.replace("foreign.py", "tried"), "a") as file:
            file.write("x")
        os.abort()
    if how == "flood" and not flooded:
        flooded.append(True)
        for _ in range(100):
            os.write(1, b"x" * 1_000_000)
    if how == "state":
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        os.chdir("/")
        F.cross_entropy = lambda z, y, **_: z.sum() * 0
        nn.Linear.forward = lambda self, x: x @ self.weight.T * 0
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.path.clear()
        torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, how, classes):
        super().__init__()
        self.how, self.net = how, nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x):
        act(self.how)
        return self.net(x)


@defense(source="here", recipe=SMALL)
def in_forward(num_classes, in_shape, backbone, *, how: str = ""):
    """Act whenever the network is called."""
    return Net(how, num_classes)


@defense(source="here", recipe=SMALL)
def in_factory(num_classes, in_shape, backbone, *, how: str = ""):
    """Act when the network is built."""
    act(how)
    return Net("", num_classes)


@defense(source="here")
def like_standard(num_classes, in_shape, backbone):
    """Be the standard network."""
    return standard(num_classes, in_shape, backbone)


def loss_that_exits(model, x, y):
    """Act in the loss."""
    os._exit(0)


@defense(source="here", recipe=Recipe(epochs=1, batch_size=50, lr=0.1, loss=loss_that_exits))
def in_loss(num_classes, in_shape, backbone):
    """Act in the loss."""
    return Net("", num_classes)


@evaluation(source="here", columns={"mean_pixel": Column("Mean.")}, chunk=4)
def in_evaluation(model, x, y, *, seed=0):
    """Act in the second chunk."""
    if float(x[0].sum()) != FIRST_SUM:
        os._exit(0)
    return {"mean_pixel": x.mean((1, 2, 3))}


@attack(source="here", norms=("l2",))
def in_attack(model, x, y, *, eps, norm="l2", seed=0):
    """Act in an attack."""
    os.abort()
'''
EVALUATIONS = """
[evaluations.accuracy]
limit = 8
[evaluations.pgd_l2]
eps = [0.5]
steps = 2
limit = 8
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """Return the file above; it knows the first chunk by the sum of the first test image's pixels."""
    first = to_unit(torch.tensor(catalog.load("digits", limit=1).test.images))[0]
    path = tmp_path_factory.mktemp("foreign") / "foreign.py"
    path.write_text(f"FIRST_SUM = {float(first.sum())!r}\n{FILE}")
    return path


@pytest.fixture
def run(tmp_path, write_suite, cli, foreign):
    """Return what runs a suite of some defenses with the file above; it knows its result folder."""
    out = tmp_path / "out"

    def call(*defenses: str, evaluations: str = EVALUATIONS, options: tuple[object, ...] = ()):
        suite = write_suite(tmp_path / "tiny.toml", list(defenses), evaluations, epochs=1)
        arguments = ("run", "--suite", suite, "--out", out, "--train-limit", 100, "--include", foreign, *options)
        return cli(*arguments)

    call.out = out
    return call


def failed(out: Path) -> dict[str, dict[str, str]]:
    return {row.defense: row.failed for row in run_status(out).rows}


def test_each_way_to_end_a_process_ends_its_cell_alone_with_its_cause(run) -> None:
    """All at once: five networks that end the process when called, one that runs out of memory, a loss that exits."""
    ways = {
        "in_forward:how=exit": "end of its process by exit code 0 (sys.exit or os._exit was called)",
        "in_forward:how=sysexit": "sys.exit(0)",
        "in_forward:how=segfault": "SIGSEGV (a crash in native code)",
        "in_forward:how=abort": "SIGABRT",
        "in_forward:how=killed": "SIGKILL (killed by the system, most likely because memory ran out)",
        "in_forward:how=memory": "out of memory",
        "in_loss": "exit code 0",
    }
    done = run(*ways, "in_forward", "standard")
    assert done.code == 1, done.err
    found = failed(run.out)
    for (spec, cause), (defense, causes) in zip(ways.items(), found.items(), strict=False):
        assert cause in causes["train"], spec
        assert f"{defense} seed 0: " in done.err
    complete = {row.defense for row in run_status(run.out).rows if row.complete}
    assert complete == {"in_forward", "standard"}
    assert set(pd.read_csv(run.out / "leaderboard.csv")["defense"]) >= {"in_forward", "standard"}
    assert "Traceback" not in done.err
    assert (run.out / "leaderboard.html").is_file()


def test_a_factory_an_evaluation_and_an_attack_that_end_the_process(run) -> None:
    evaluations = f"{EVALUATIONS}[evaluations.in_evaluation]\nlimit = 8\n[evaluations.in_attack_l2]\nlimit = 8\n"
    done = run("in_factory:how=exit", "standard", evaluations=evaluations)
    assert done.code == 1, done.err
    assert "defense in_factory: expected a factory that returns a network, got the end of the process" in done.err
    rows = {row.defense: row for row in run_status(run.out).rows}
    assert rows["standard"].failed.keys() == {"in_evaluation", "in_attack_l2"}
    assert "SIGABRT" in rows["standard"].failed["in_attack_l2"]
    assert "exit code 0" in rows["standard"].failed["in_evaluation"]
    assert rows["standard"].images["in_evaluation"] == 4, "the first chunk is kept"
    assert rows["standard"].images["accuracy"] == 8


def test_a_hanging_network_fails_within_the_limit(run) -> None:
    done = run("in_forward:how=hang", "standard", options=("--hang-limit", "6s"))
    assert done.code == 1, done.err
    assert "within 6 s, got none. Its process was ended; --hang-limit allows more." in done.err
    rows = {row.defense: row.complete for row in run_status(run.out).rows}
    assert rows == {"in_forward:how=hang": False, "standard": True}


def test_a_flood_on_stdout_is_cut_and_harms_nothing(run) -> None:
    done = run("in_forward:how=flood")
    assert done.code == 0, done.err
    assert "| … (the rest of its output is not shown)" in done.err
    assert len(done.err) < 50_000
    assert "xxx" not in done.out


def test_what_one_defense_does_to_its_process_reaches_no_other(run) -> None:
    """The same decisions with and without a defense that changes all it can, when it is built and when it is called."""
    before = (os.getcwd(), sys.path[:], signal.getsignal(signal.SIGTERM))
    run("in_forward", "standard")
    names = ["clean_correct", "margin", "pgd_l2_0.5_robust"]
    alone = pd.read_parquet(run.out / "examples.parquet").set_index(["defense", "index"])[names]
    (run.out / "bench.db").unlink()
    done = run("in_factory:how=state", "in_forward:how=state", "in_forward", "standard")
    together = pd.read_parquet(run.out / "examples.parquet").set_index(["defense", "index"])[names]
    assert {"in_forward", "standard"} <= {row.defense for row in run_status(run.out).rows if row.complete}, done.err
    pd.testing.assert_frame_equal(together.loc[["in_forward", "standard"]], alone)
    assert (os.getcwd(), sys.path[:], signal.getsignal(signal.SIGTERM)) == before


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bench", *map(str, arguments)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 75)])
def test_a_hanging_network_obeys_signals_and_the_time_limit(run, monkeypatch, number, code) -> None:
    monkeypatch.setattr(child, "GRACE_SECONDS", 1.0)

    def send() -> None:
        deadline = time.monotonic() + 120
        while not _running(run.out) and time.monotonic() < deadline:
            time.sleep(0.1)
        if _running(run.out):
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    if number:
        sender.start()
    done = run("in_forward:how=hang", options=() if number else ("--time-limit", "4s"))
    if number:
        sender.join()
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    with Store.open(run.out) as store:
        assert {c.status for c in store.cells("train")} <= {"pending"}, "the lease is given back"


def _running(out: Path) -> bool:
    if not (out / "bench.db").exists():
        return False
    with Store.open(out) as store:
        return any(c.status == "running" for c in store.cells("train"))


def test_a_killed_command_leaves_no_child(run, tmp_path, write_suite, foreign) -> None:
    suite = write_suite(tmp_path / "tiny.toml", ["in_forward:how=hang"], EVALUATIONS, epochs=1)
    mark = f"BENCH_TEST_MARK={tmp_path}"
    arguments = command("run", "--suite", suite, "--out", run.out, "--train-limit", 100, "--include", foreign)
    environment = {**os.environ, "BENCH_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=environment
    )
    while process.poll() is None and not _running(run.out):
        time.sleep(0.2)
    assert len(_marked(mark)) > 1
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while _marked(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _marked(mark)


def _marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("import os; os._exit(0)", "the end of the process by exit code 0"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class Own(BaseException): ...\nraise Own", "Own"),
        ("import ctypes; ctypes.string_at(0)", "the end of the process by SIGSEGV"),
        ("import time; time.sleep(1000)", "nothing within 3 s"),
    ],
    ids=["os._exit", "sys.exit", "GeneratorExit", "no Exception", "segfault", "hang"],
)
def test_an_included_file_that_ends_the_process_is_wrong_usage(cli, tmp_path, line, cause) -> None:
    _skip_where_a_gpu_is_in_use()
    path = tmp_path / "ends.py"
    path.write_text(line)
    done = cli("run", "--suite", "digits", "--include", path, "--out", tmp_path / "out", "--hang-limit", "3s")
    assert done.code == 2
    assert f"--include {path}: expected a file that imports, got {cause}" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def _skip_where_a_gpu_is_in_use() -> None:
    if torch.cuda.is_initialized():
        pytest.skip("an earlier test has used the GPU in this process: it cannot be copied")


PLUGIN = """
import os, sys
def load(): pass
{line}
"""
WORKING = """
import os
import bench
from torch import nn


class Plugged(nn.Sequential):
    def forward(self, x):
        if os.path.basename(os.getcwd()) == "nowhere" or self[0].start_dim == 2:
            os.abort()
        return super().forward(x)


@bench.defense(source='here')
def plugged(num_classes, in_shape, backbone, *, dims: int = 1):
    "Be plugged in."
    return Plugged(nn.Flatten(dims), nn.Linear(64, num_classes))
"""


@pytest.fixture
def plugins(tmp_path, monkeypatch) -> None:
    """Install five plug-ins, four of them broken, beside those that there are."""
    lines = {
        "raises": "1 / 0",
        "exits": "sys.exit(0)",
        "escapes": "raise GeneratorExit",
        "vanishes": "os._exit(0)",
        "works": WORKING,
    }
    for name, line in lines.items():
        (tmp_path / f"plug_{name}.py").write_text(PLUGIN.format(line=line))
        info = tmp_path / f"plug_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plug-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[bench.defenses]\np = plug_{name}:load\n")
    _skip_where_a_gpu_is_in_use()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(user_code, "_broken", {})
    discovery.discover()
    user_code.load_plugins("bench.defenses")


def test_a_broken_plugin_names_itself_and_leaves_the_others_and_other_commands(plugins, cli) -> None:
    done = cli("list", "defenses")
    assert done.code == 0, done.err
    assert "plugged" in done.out
    assert "lcnn" in done.out
    assert "plug-in p of plug-raises: expected plug_raises:load to import, got ZeroDivisionError" in done.err
    assert "plug-in p of plug-exits: expected plug_exits:load to import, got SystemExit: 0" in done.err
    assert "plug-in p of plug-escapes: expected plug_escapes:load to import, got GeneratorExit" in done.err
    assert "plug-in p of plug-vanishes: expected plug_vanishes:load to import, got the end of the" in done.err
    assert len(done.err.strip().splitlines()) == 4


def test_a_plugins_defense_runs_in_a_child(plugins, write_suite, cli, tmp_path) -> None:
    suite = write_suite(tmp_path / "tiny.toml", ["plugged", "plugged:dims=2"], EVALUATIONS, epochs=1)
    done = cli("run", "--suite", suite, "--out", tmp_path / "out", "--train-limit", 100)
    assert done.code == 1, done.err
    assert "SIGABRT" in failed(tmp_path / "out")["plugged:dims=2"]["train"]
    assert [row.complete for row in run_status(tmp_path / "out").rows] == [True, False]


def test_a_cell_that_failed_is_tried_by_the_next_command_and_not_by_a_worker_of_this_one(
    run, foreign, monkeypatch, tmp_path
) -> None:
    tried = foreign.with_name("tried")
    tried.unlink(missing_ok=True)
    begun = time.time()
    assert run("in_forward:how=tell").code == 1
    once = len(tried.read_text())
    options = prepare.Options(
        suite=str(tmp_path / "tiny.toml"), narrow={"train_limit": 100}, out=run.out, included=(str(foreign),)
    )
    monkeypatch.setenv("BENCH_WORKER_SINCE", repr(begun))
    pipeline.work(options)
    assert len(tried.read_text()) == once, "a worker of the command leaves it"
    monkeypatch.setenv("BENCH_WORKER_SINCE", repr(time.time()))
    pipeline.work(options)
    assert len(tried.read_text()) == 2 * once, "a later command tries it"


def test_a_child_gives_the_same_bits(run) -> None:
    done = run("like_standard", "standard", options=("--deterministic",))
    assert done.code == 0, done.err
    rows = pd.read_parquet(run.out / "examples.parquet").set_index(["defense", "index"])
    names = ["clean_correct", "margin", "pgd_l2_0.5_robust"]
    pd.testing.assert_frame_equal(rows.loc["like_standard"][names], rows.loc["standard"][names])
    with Store.open(run.out) as store:
        assert len({cell.info["weights"] for cell in store.cells("train")}) == 1


def test_an_included_file_that_is_edited_meanwhile_is_not_computed_under_its_old_key(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(user_code, "_broken", {})
    path = tmp_path / "edited.py"
    path.write_text("x = 1\n")
    origin = user_code.origin_of_file(discovery.include(path))
    discovery.load([origin])
    path.write_text("x = 2\n")
    with pytest.raises(UsageError, match="expected the file that the command has read, got another"):
        discovery.load([origin])


def test_what_a_process_died_over_is_computed_in_a_child_with_the_same_bits(run, monkeypatch) -> None:
    """A process claims the cell of our own defense and dies; in the next command's child it is the same training."""
    options = ("--evaluation", "accuracy", "--deterministic")
    assert run("standard", options=options).code == 0
    with Store.open(run.out) as store:
        (cell,) = store.cells("train")
        store.leases.reopen(cell.id)
    if os.fork() == 0:
        with Store.open(run.out) as store:
            store.leases.claim(cell.id, "train", cell.spec)
            os._exit(0)
    os.wait()
    used = []
    monkeypatch.setattr(child.Child, "close", lambda self, close=child.Child.close: (used.append(self), close(self)))
    done = run("standard", options=options)
    assert done.code == 0, done.err
    assert len(used) == 1
    with Store.open(run.out) as store:
        (again,) = store.cells("train")
    assert again.info["weights"] == cell.info["weights"]
    assert again.info["probe"] == cell.info["probe"]


@pytest.fixture
def endless(monkeypatch) -> list[signal.Signals]:
    """Register, for one test, an evaluation in this process that calls the network until it is stopped.

    Returns:
        Signals that it sends to this process, the first one first.
    """
    discovery.discover()  # or what it registers would go with the test
    monkeypatch.setattr(registry.evaluations, "_entries", dict(registry.evaluations._entries))
    sent: list[signal.Signals] = []

    @evaluation(source="here", columns={"mean_pixel": Column("Mean.")})
    def calls_for_ever(model, x, y, *, seed=0):
        """Go on, whatever the network raises."""
        while True:
            if sent:
                os.kill(os.getpid(), sent.pop(0))
            try:
                model(x)
            except Exception:
                continue

    return sent


def test_the_time_limit_acts_within_a_chunk(run, endless) -> None:
    evaluations = "[evaluations.accuracy]\nlimit = 4\n[evaluations.calls_for_ever]\nlimit = 4\n"
    done = run("standard", evaluations=evaluations, options=("--time-limit", "6s"))
    assert done.code == 75, done.err
    with Store.open(run.out) as store:
        assert {c.status for c in store.cells("evaluation")} <= {"done", "pending"}


@pytest.mark.parametrize(
    ("signals", "code"), [((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGTERM), 143), ((signal.SIGINT,) * 2, 130)]
)
def test_sigterm_and_a_second_ctrl_c_act_within_a_chunk(run, endless, signals, code) -> None:
    endless.extend(signals)
    evaluations = "[evaluations.accuracy]\nlimit = 4\n[evaluations.calls_for_ever]\nlimit = 4\n"
    done = run("standard", evaluations=evaluations, options=("--epochs", 1))
    assert done.code == code, done.err
    assert "2 of 3 cells stored" in done.err
    with Store.open(run.out) as store:
        assert sorted(c.status for c in store.cells("evaluation")) == ["done", "pending"]


def test_a_call_that_returns_or_raises_is_not_deadly() -> None:
    _skip_where_a_gpu_is_in_use()
    assert deadly(lambda: None) == ""
    assert deadly(lambda: 1 / 0) == ""
    assert deadly(lambda: os._exit(3)) == "the end of the process by exit code 3 (sys.exit or os._exit was called)"
    assert deadly(lambda: time.sleep(60), 0.2) == "nothing within 0.2 s"
    assert how_it_ended(-signal.SIGSEGV) == "SIGSEGV (a crash in native code)"


def test_the_state_of_the_process_is_put_back(tmp_path, monkeypatch) -> None:
    import locale
    import random
    import warnings

    import numpy as np
    from torch import nn
    from torch.nn import functional

    monkeypatch.setenv("KEPT", "1")
    originals = (functional.cross_entropy, nn.Linear.forward, torch.optim.SGD, np.clip)
    read = {
        "folder": os.getcwd,
        "environment": lambda: dict(os.environ),
        "path": lambda: sys.path[:],
        "filters": lambda: warnings.filters[:],
        "dtype": torch.get_default_dtype,
        "gradients": torch.is_grad_enabled,
        "generators": lambda: (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "errors": np.geterr,
        "signal": lambda: signal.getsignal(signal.SIGINT),
        "locale": lambda: locale.setlocale(locale.LC_ALL),
        "deterministic": torch.are_deterministic_algorithms_enabled,
        "stdout": lambda: sys.stdout,
        "recursion": sys.getrecursionlimit,
    }
    before = {name: look() for name, look in read.items()}
    with process_state_kept():
        os.chdir(tmp_path)
        os.environ.update(KEPT="2", NEW="1")
        sys.path.insert(0, "nowhere")
        warnings.simplefilter("error")
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        np.seterr(all="raise")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout = sys.stderr
        sys.setrecursionlimit(5000)
        functional.cross_entropy = lambda *_: 0
        nn.Linear.forward = lambda self, x: x
        torch.optim.SGD = dict
        del np.clip
    assert {name: look() for name, look in read.items()} == before
    assert (functional.cross_entropy, nn.Linear.forward, torch.optim.SGD, np.clip) == originals
