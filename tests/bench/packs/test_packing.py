"""Packs: a real small run there and back, packs of runs in use and half done, and what a pack may weigh."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from bench.core.errors import MachineError, StoreError
from bench.packs.pack import Limits, Rows, TooLarge, pack
from bench.packs.unpack import unpack
from bench.store.records import LEFT_OUT
from bench.store.status import run_status
from bench.store.store import Store
from bench.training.execution import ExecutionConfig

SAME_BITS = ExecutionConfig(deterministic=True)  # each time, on a GPU too
EVALUATIONS = """
[evaluations.accuracy]
limit = 30
[evaluations.autoattack_l2]
eps = [3.0]
limit = 40
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory, write_suite):
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    return write_suite(path, ["standard", "lcnn"], EVALUATIONS, primary_eps=3.0)


def run(suite, out, **narrow):
    from bench.running.pipeline import run as run_suite
    from bench.running.prepare import Options

    narrow = {"train_limit": 200, **narrow}
    return run_suite(Options(suite=str(suite), out=out, quiet=True, narrow=narrow, execution=SAME_BITS))


@pytest.fixture(scope="module")
def finished(suite, tmp_path_factory):
    """Run the suite once, wholly; more pictures are found than the page shows."""
    out = tmp_path_factory.mktemp("results") / "tiny"
    assert run(suite, out).code == 0
    return out


@pytest.fixture(scope="module")
def half(suite, tmp_path_factory):
    """Train one of two defenses and attack it; of the other nothing. The last plan is the whole suite's."""
    out = tmp_path_factory.mktemp("results") / "half"
    assert run(suite, out, defenses=("standard",)).code == 0
    plan_whole(suite, out)
    return out


def plan_whole(suite, out):
    """Store the whole suite's plan, as a run does that is stopped at once."""
    from bench.running.pipeline import run as run_suite
    from bench.running.prepare import Options

    options = Options(
        suite=str(suite), out=out, quiet=True, narrow={"train_limit": 200}, time_limit=1e-3, execution=SAME_BITS
    )
    assert run_suite(options).code == 75


def computed(out):
    """Return when each finished cell was computed, so to say: its stored seconds."""
    with Store.open(out) as store:
        cells = store.cells("train") + store.cells("evaluation")
        return {c.id: c.seconds for c in cells if c.status == "done"}


def folder_bytes(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_pack_names_no_folder_of_the_machine(suite, tmp_path, cli):
    out, packed = tmp_path / "mine", tmp_path / "pack"
    narrow = ("--defense", "standard", "--evaluation", "accuracy", "--train-limit", 200, "--epochs", 1, "--quiet")
    done = cli("run", "--suite", suite, "--data", tmp_path, f"--out={out}", *narrow)
    assert done.code == 0, done.err
    pack(out, packed, weights="all")
    texts = {path.name: path.read_bytes() for path in packed.iterdir()}
    for archive in packed.glob("*.zip"):
        with zipfile.ZipFile(archive) as files:
            texts |= {name: files.read(name) for name in files.namelist()}
    assert [n for n, t in texts.items() for f in (tmp_path, suite.parent) if str(f).encode() in t] == []
    assert b"run --suite tiny.toml --data DIR --out=DIR --defense standard" in texts["manifest.json"]


# There and back


def test_there_and_back_the_board_is_the_same_to_the_byte(finished, tmp_path):
    packed = pack(finished, tmp_path / "pack", weights="all", pictures=True)
    assert packed.status.done == packed.status.total == 2 * (1 + 2 + 1)
    assert set(packed.sizes) == {"pack.json", "leaderboard.html", "board.zip", "store.zip", "weights.zip"}
    unpack(tmp_path / "pack", tmp_path / "back")
    names = ["leaderboard.html", "leaderboard.csv", "leaderboard.json", "examples.parquet", "manifest.json"]
    for name in names:
        assert (tmp_path / "back" / name).read_bytes() == (finished / name).read_bytes(), name
    weights = sorted(p.name for p in (finished / "weights").glob("*.safetensors"))
    assert [p.name for p in sorted((tmp_path / "back" / "weights").iterdir())] == weights
    with zipfile.ZipFile(tmp_path / "pack" / "board.zip") as board:
        assert {"leaderboard.csv", "leaderboard.json", "manifest.json", "examples.parquet"} <= set(board.namelist())


def test_same_results_same_bytes(finished, tmp_path):
    for name in ("a", "b"):
        pack(finished, tmp_path / name, weights="all")
    unpack(tmp_path / "a", tmp_path / "back")
    pack(tmp_path / "back", tmp_path / "c", weights="all")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b") == folder_bytes(tmp_path / "c")


def test_without_pictures_the_page_keeps_those_it_shows(finished, tmp_path):
    pack(finished, tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path / "back")
    with Store.open(finished) as whole, Store.open(tmp_path / "back") as slim:
        for cell in whole.cells("evaluation"):
            before, after = whole.images(cell.id), slim.images(cell.id)
            assert len(after.get("index", ())) == min(12, len(before.get("index", ())))
            dropped = sum(info.get(LEFT_OUT, 0) for info in slim.chunk_info(cell.id).values())
            assert dropped == len(before.get("index", ())) - len(after.get("index", ()))
    page, table = "leaderboard.html", "leaderboard.csv"
    assert (tmp_path / "pack" / page).read_bytes() == (finished / page).read_bytes()
    assert (tmp_path / "back" / table).read_bytes() == (finished / table).read_bytes()


def test_weights_and_pictures_of_some_rows_travel_alone(finished, tmp_path, cli):
    to = tmp_path / "pack"
    done = cli("results", "pack", "--out", finished, "--to", to, "--weights", "--defense", "lcnn", "--seeds", "0")
    assert done.code == 0, done.err
    assert "weights of 1 models" in done.out
    unpack(to, tmp_path / "back")
    with Store.open(finished) as whole, Store.open(tmp_path / "back") as slim:
        runs = {run.defense: run for run in whole.plans.board().plan.rows}
        weights = whole.cell(runs["lcnn"].train_cell).info["weights"]
        attacked = [cell.id for cell in whole.cells("evaluation") if "index" in whole.images(cell.id)]
        kept = [bool(len(slim.images(cell).get("index", ()))) for cell in attacked]
    assert [p.stem for p in (tmp_path / "back" / "weights").iterdir()] == [weights]
    assert sorted(kept) == [False, True], "of two rows' examples one's"
    assert (tmp_path / "back" / "leaderboard.csv").read_bytes() == (finished / "leaderboard.csv").read_bytes()
    pack(finished, tmp_path / "all", pictures=True, proved=Rows(("lcnn",)))
    unpack(tmp_path / "all", tmp_path / "more")
    with Store.open(finished) as whole, Store.open(tmp_path / "more") as some:
        counts = [[len(s.images(cell).get("index", ())) for s in (whole, some)] for cell in attacked]
    assert sorted(after for _, after in counts) == sorted([0, max(n for n, after in counts if after)])
    for words, refusal in ((("--defense", "lccn"), "'lccn'"), (("--seeds", "7"), "7")):
        refused = cli("results", "pack", "--out", finished, "--to", tmp_path / "no", "--weights", *words)
        assert refused.code == 2
        assert refusal in refused.err


def test_a_finished_run_stays_finished_without_its_weights(finished, suite, tmp_path):
    pack(finished, tmp_path / "pack")
    unpacked = unpack(tmp_path / "pack", tmp_path / "back")
    assert (unpacked.weights, unpacked.missing) == (0, 2)
    before = computed(tmp_path / "back")
    assert run(suite, tmp_path / "back").code == 0
    assert computed(tmp_path / "back") == before
    assert not list((tmp_path / "back").glob("weights/*"))


def test_a_half_finished_run_goes_on_and_computes_only_the_rest(half, finished, suite, tmp_path):
    packed = pack(half, tmp_path / "pack", weights="all", pictures=True)
    assert packed.status.rows[0].unfinished == ("transfer_l2",)
    unpack(tmp_path / "pack", tmp_path / "back")
    before = computed(tmp_path / "back")
    assert before
    assert run(suite, tmp_path / "back").code == 0
    after = computed(tmp_path / "back")
    assert len(after) == 8
    assert {k: after[k] for k in before} == before
    columns = ["defense", "index", "clean_correct", "margin", "autoattack_l2_3_robust", "best_known_l2_3_robust"]
    tables = [pd.read_parquet(out / "examples.parquet")[columns] for out in (tmp_path / "back", finished)]
    pd.testing.assert_frame_equal(*tables)


def test_without_pictures_the_transfer_is_left_out_and_never_made_up(half, suite, tmp_path, capsys):
    pack(half, tmp_path / "pack", weights="all")
    unpack(tmp_path / "pack", tmp_path / "back")
    result = run(suite, tmp_path / "back")
    assert result.code == 0
    with Store.open(half) as store:
        assert max(len(store.images(c.id).get("index", ())) for c in store.cells("evaluation")) > 12
    left = {r.label: r.unfinished for r in run_status(tmp_path / "back").rows}
    # standard is tried on lcnn's examples, which are all there; lcnn would be on standard's, of which some are not.
    assert left == {"standard seed 0": (), "lcnn seed 0": ("transfer_l2",)}
    table = pd.read_parquet(tmp_path / "back" / "examples.parquet").set_index("defense")
    assert table.loc["lcnn", "best_known_l2_3_robust"].isna().all()


def test_unfinished_evaluations_without_weights_train_anew(half, suite, tmp_path):
    pack(half, tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path / "back")
    assert run(suite, tmp_path / "back", defenses=("standard",), evaluations=("curvature",), limit=4).code == 0
    assert len(list((tmp_path / "back" / "weights").glob("*.safetensors"))) == 1
    assert run_status(tmp_path / "back").done == 2


def test_a_run_that_is_in_use_is_packed_as_it_stands(half, tmp_path):
    with Store.open(half) as store:
        lease = store.leases.claim("a" * 64, "evaluation", {"name": "in flight"})
        assert lease
        store.put_chunk(lease, 0, pd.DataFrame({"index": [0], "label": [1]}), None, {})
        pack(half, tmp_path / "pack")
        store.put_chunk(lease, 1, pd.DataFrame({"index": [1], "label": [1]}), None, {})  # the lease still holds
        store.leases.release(lease)
    unpack(tmp_path / "pack", tmp_path / "back")
    with Store.open(tmp_path / "back") as store:
        record = store.cell("a" * 64)
        assert record.status == "pending"
        assert list(store.table("a" * 64)["index"]) == [0]
        assert store.leases.holder("a" * 64) is None
        assert store.leases.claim("a" * 64, "evaluation", {})


def test_latest_leaves_other_cells_behind(half, tmp_path):
    with Store.open(half) as store:
        lease = store.leases.claim("b" * 64, "evaluation", {"name": "of an earlier command"})
        store.finish(lease, {"wall_seconds": 1.0})
    for name, there in (("all", True), ("latest", False)):
        pack(half, tmp_path / name, latest=name == "latest")
        unpack(tmp_path / name, tmp_path / f"{name}-back")
        with Store.open(tmp_path / f"{name}-back") as store:
            assert (store.cell("b" * 64) is not None) is there
        assert run_status(tmp_path / f"{name}-back").done == 3


# Limits


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Fabricate a store whose tables do not compress: 9,000 images × 8 models."""
    fabricate = _fabricate()
    out = tmp_path_factory.mktemp("big") / "big"
    fabricate.make_store(out, fabricate.make_plan(), n=9000, chunk=500)
    return out


def _fabricate():
    import importlib.util

    path = Path(__file__).resolve().parents[2] / "reports" / "fabricate.py"
    spec = importlib.util.spec_from_file_location("packing_fabricate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_large_archives_are_cut_and_joined(big, tmp_path):
    packed = pack(big, tmp_path / "pack", limits=Limits(files=8, bytes=4_000_000))
    assert len(packed.sizes) <= 8
    assert max(packed.sizes.values()) <= 4_000_000
    assert {p.name: p.stat().st_size for p in (tmp_path / "pack").iterdir()} == packed.sizes
    assert any(name.endswith(".002") for name in packed.sizes)
    unpacked = unpack(tmp_path / "pack", tmp_path / "back")
    assert unpacked.status.done == packed.status.done == packed.status.total


def test_what_cannot_fit_is_said_with_sizes_and_ways_out(big, tmp_path):
    with pytest.raises(TooLarge, match=r"expected at most 8 files of 0\.5 MB.*store\.zip .* MB.*--without-examples"):
        pack(big, tmp_path / "pack", limits=Limits(bytes=500_000))
    assert not list((tmp_path / "pack").iterdir())
    smaller = pack(big, tmp_path / "pack", examples=False, limits=Limits(bytes=4_000_000))
    with zipfile.ZipFile(tmp_path / "pack" / "board.zip") as board:
        assert "examples.parquet" not in board.namelist()
    assert smaller.sizes["board.zip"] < 1_000_000


def test_weights_that_are_far_too_large_are_refused_at_once(finished, tmp_path):
    with pytest.raises(TooLarge, match=r"2 models' weights of .* MB. Leave out --weights"):
        pack(finished, tmp_path / "pack", weights="all", limits=Limits(total=10_000))


def test_an_older_pack_is_replaced_and_foreign_files_stay(finished, tmp_path):
    (tmp_path / "README.md").write_text("kept")
    (tmp_path / "store.zip.009").write_text("of an older pack")
    packed = pack(finished, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {*packed.sizes, "README.md"}


@pytest.mark.parametrize(
    ("first", "again", "lost"),
    [
        (["--weights"], [], "weights of 2 models that it would lack (--weights)"),
        (["--weights", "--pictures"], ["--weights"], "all adversarial examples (--pictures)"),
        ([], ["--weights", "--pictures"], ""),
        (["--weights"], ["--weights", "--without-examples"], ""),
    ],
)
def test_a_pack_that_holds_more_is_not_replaced(cli, finished, tmp_path, first, again, lost):
    to = tmp_path / "pack"
    assert cli("results", "pack", "--out", finished, "--to", to, *first).code == 0
    (to / "pack.sig").write_text("signed")
    before = folder_bytes(to)
    done = cli("results", "pack", "--out", finished, "--to", to, *again)
    assert done.code == (2 if lost else 0), done.err
    if lost:
        assert lost in done.err
        assert len(done.err.splitlines()) == 1
        assert folder_bytes(to) == before
    else:
        assert "pack.sig was of the old pack and is removed: sign the new one" in done.out


def test_the_last_copy_of_deleted_weights_and_other_results_are_not_replaced(cli, finished, half, tmp_path):
    to, out = tmp_path / "pack", tmp_path / "out"
    assert cli("results", "pack", "--out", finished, "--to", to, "--weights").code == 0
    assert cli("results", "unpack", to, "--out", out).code == 0
    next((out / "weights").glob("*.safetensors")).unlink()
    done = cli("results", "pack", "--out", out, "--to", to, "--weights")
    assert done.code == 2
    assert "weights of 1 models" in done.err
    listing = to / "pack.json"
    listing.write_text(listing.read_text().replace('"suite": "tiny"', '"suite": "another"'))
    done = cli("results", "pack", "--out", finished, "--to", to, "--weights")
    assert done.code == 2
    assert "results of another suite ('another', not 'tiny')" in done.err
    for content in ("", "{", "[]", '{"archives": 3}', "[" * 10_000):
        listing.write_text(content)
        if content.startswith("{") and content != "{":
            assert cli("results", "pack", "--out", finished, "--to", to, "--weights").code == 2
    listing.write_text("{")
    assert cli("results", "pack", "--out", finished, "--to", to, "--weights").code == 0, "half a pack is none"


def test_a_folder_without_results_is_said(tmp_path):
    with pytest.raises(MachineError, match=r"expected a result folder with bench\.db"):
        pack(tmp_path / "nowhere", tmp_path / "pack")
    with Store.open(tmp_path / "empty", create=True):
        pass
    with pytest.raises(StoreError, match="expected a planned run"):
        pack(tmp_path / "empty", tmp_path / "pack")


# The commands


def test_the_command_says_what_it_wrote(cli, finished, tmp_path):
    done = cli("results", "pack", "--out", finished, "--to", tmp_path / "pack", "--weights")
    assert done.code == 0
    assert "8 of 8 cells, weights of 2 models" in done.out
    assert "weights.zip" in done.out
    back = cli("results", "unpack", tmp_path / "pack", "--out", tmp_path / "back")
    assert back.code == 0
    assert back.out.strip().endswith("leaderboard.html")
    assert cli("report", "--out", tmp_path / "back").code == 0
