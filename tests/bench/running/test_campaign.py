"""A campaign in pieces, each from the last one's pack alone in a fresh folder, ends where one whole run ends."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.packs.pack import LISTING
from bench.packs.unpack import unpack
from bench.running.campaign import Piece, command_of, pack_what_fits, parser, summary
from bench.store.status import run_status

ROOT = Path(__file__).resolve().parents[3]
DEFENSES = ["standard", "lcnn", "softplus_wd"]
EVALUATIONS = """
[evaluations.accuracy]
limit = 30
[evaluations.pgd_l2]
eps = [0.1, 0.5]
limit = 30
[evaluations.autoattack_l2]
eps = [0.5]
limit = 10
[evaluations.curvature]
limit = 30
"""
EXACT = ["clean_accuracy", "pgd_l2_0.1", "pgd_l2_0.5", "autoattack_l2_0.5", "best_known_l2_0.5", "curvature"]


@pytest.fixture
def suite(tmp_path, write_suite):
    return write_suite(tmp_path / "tiny.toml", DEFENSES, EVALUATIONS, epochs=20)


def arguments(suite, out, *more):
    return parser().parse_args(["--suite", str(suite), "--out", str(out), "--train-limit", "400",
                                "--device", "cpu", *map(str, more)])  # fmt: skip


def whole_run(suite, out, **narrow):
    from bench.running.pipeline import run
    from bench.running.prepare import Options

    return run(Options(suite=str(suite), out=out, quiet=True, device="cpu", narrow={"train_limit": 400, **narrow}))


def piece(suite, out, source, minutes):
    command = [sys.executable, "-m", "bench.running.campaign", "--suite", suite, "--train-limit", 400, "--out", out,
               "--device", "cpu", "--from", source, "--minutes", minutes]  # fmt: skip
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)


def assert_same_boards(*folders):
    boards = [pd.read_csv(folder / "leaderboard.csv").sort_values("defense") for folder in folders]
    first, second = (board[["defense", "rank", *EXACT]].reset_index(drop=True) for board in boards)
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.slow
def test_pieces_come_to_what_one_run_comes_to(suite, tmp_path):
    minutes, ends, source = 0.1, [], tmp_path / "nothing"
    for number in range(40):
        out = tmp_path / f"pack-{number}"
        done = piece(suite, out, source, f"{minutes:.2f}")
        if done.returncode == 1:  # this machine needs longer to finish anything: not a cell in the piece
            assert "nothing was" in done.stdout, done.stdout + done.stderr
            minutes *= 1.5
        else:
            assert done.returncode in (0, 75), done.stderr
            ends.append(done.returncode)
            assert len(list(out.iterdir())) <= 8
            source = out
        if ends and ends[-1] == 0:
            break
    assert ends[-1] == 0
    assert len(ends) > 1
    assert "3 of 3 models, 18 of 18 cells done; complete" in done.stdout
    unpack(source, tmp_path / "campaign")
    assert whole_run(suite, tmp_path / "whole").code == 0
    assert_same_boards(tmp_path / "campaign", tmp_path / "whole")


@pytest.fixture(scope="module")
def half(tmp_path_factory, write_suite):
    """Run one of three defenses wholly, and of another only the training and one evaluation."""
    folder = tmp_path_factory.mktemp("half")
    path = write_suite(folder / "tiny.toml", DEFENSES, EVALUATIONS, epochs=3)
    out = folder / "out"
    assert whole_run(path, out, defenses=("standard",)).code == 0
    assert whole_run(path, out, defenses=("lcnn",), evaluations=("accuracy",)).code == 0
    from bench.running.pipeline import run
    from bench.running.prepare import Options

    stopped = Options(suite=str(path), out=out, quiet=True, device="cpu", narrow={"train_limit": 400}, time_limit=1e-3)
    assert run(stopped).code == 75
    return path, out


def test_a_piece_goes_on_from_the_pack_alone_and_ends_where_one_run_ends(half, tmp_path):
    suite, out = half
    pack_what_fits(out, arguments(suite, tmp_path / "a"), complete=False)
    done = piece(suite, tmp_path / "b", tmp_path / "a", 10)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 models, 18 of 18 cells done; complete" in done.stdout
    assert "train standard" not in done.stderr
    assert "train lcnn" not in done.stderr
    assert "train softplus_wd" in done.stderr
    unpack(tmp_path / "b", tmp_path / "campaign")
    assert whole_run(suite, tmp_path / "whole").code == 0
    assert_same_boards(tmp_path / "campaign", tmp_path / "whole")


def test_what_travels_shrinks_to_what_is_needed_and_what_fits(half, tmp_path):
    suite, out = half
    weights = {p.stem: p.stat().st_size for p in (out / "weights").glob("*.safetensors")}
    needed = {r.weights for r in run_status(out).rows if r.needs_weights}
    assert len(weights) == 2
    assert len(needed) == 1
    everything = pack_what_fits(out, arguments(suite, tmp_path / "a"), complete=False)
    assert everything.weights == 2
    tables = sum(size for name, size in everything.sizes.items() if not name.startswith("weights"))
    most = (tables + 1.3 * max(weights.values())) / 1e6  # room for one model, not for two
    one = pack_what_fits(out, arguments(suite, tmp_path / "b", "--total-mb", most), complete=False)
    assert one.weights == 1
    unpack(tmp_path / "b", tmp_path / "back")
    assert {p.stem for p in (tmp_path / "back" / "weights").iterdir()} == needed
    none = pack_what_fits(out, arguments(suite, tmp_path / "c", "--total-mb", tables / 1e6 + 1e-3), complete=False)
    assert none.weights == 0
    assert pack_what_fits(out, arguments(suite, tmp_path / "d"), complete=True).weights == 0
    assert pack_what_fits(out, arguments(suite, tmp_path / "e", "--weights"), complete=True).weights == 2


def test_the_line_says_what_is_done_and_left(half, tmp_path):
    suite, out = half
    packed = pack_what_fits(out, arguments(suite, tmp_path / "a"), complete=False)
    line = summary(Piece(75, packed.status, packed))
    assert "1 of 3 models, 7 of 18 cells done" in line
    assert "left: lcnn seed 0 (trained, 4 cells), softplus_wd seed 0 (6 cells)" in line
    assert "weights of 2 models" in line
    assert "transfer_l2" in packed.status.rows[0].unfinished


def test_a_training_that_cannot_end_in_time_is_given_up_at_once(half, tmp_path):
    """No checkpoint outlives a piece: after two epochs it shows that thousands more do not fit."""
    from bench.running.pipeline import run
    from bench.running.prepare import Options

    suite, _ = half
    out = tmp_path / "out"
    narrow = {"train_limit": 400, "epochs": 100_000, "defenses": ("standard",)}
    result = run(Options(suite=str(suite), out=out, quiet=True, narrow=narrow, time_limit=600, whole_trainings=True))
    assert result.code == 75
    assert not run_status(out).done


def test_a_damaged_pack_stops_a_piece_and_is_left_alone(half, tmp_path):
    suite, out = half
    pack_what_fits(out, arguments(suite, tmp_path / "a"), complete=False)
    (tmp_path / "a" / "store.zip").write_bytes(b"")
    done = piece(suite, tmp_path / "b", tmp_path / "a", 1)
    assert done.returncode == 3
    assert "store.zip: expected" in done.stderr
    assert not (tmp_path / "b").exists()


def test_the_board_shows_a_command_without_this_machines_paths(half, tmp_path):
    suite, _ = half
    words = command_of(
        arguments(suite, tmp_path, "--data", tmp_path, "--defense", "lcnn:lambda_beta=0.01", "--limit", 3)
    )
    assert str(tmp_path) not in words
    assert words == (
        "python -m bench.running.campaign --suite tiny.toml --data DIR --defense lcnn:lambda_beta=0.01 --limit 3 "
        "--train-limit 400 --out OUT"
    )


def test_the_listing_says_how_to_unpack(half, tmp_path):
    suite, out = half
    pack_what_fits(out, arguments(suite, tmp_path / "a"), complete=False)
    listing = json.loads((tmp_path / "a" / LISTING).read_text())
    assert "results unpack" in listing["rule"]
    assert listing["cells"] == {"done": 7, "total": 18}
