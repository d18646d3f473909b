"""`bench new`: each file runs as it is, keeps its contract, gives a ranked row, and is never written over."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest

import bench
from bench.cli.new import KINDS, template
from bench.contracts.file import contracts_of
from bench.core import registry

SMALL = ("--seeds", 0, "--epochs", 1, "--train-limit", 100, "--limit", 12, "--device", "cpu", "--out", "out")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Return the empty folder that the commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["defense", "attack", "evaluation"])
def test_each_file_keeps_its_contract_and_gives_a_ranked_row(here, cli, kind):
    name = f"own_{kind}"
    written = cli("new", kind, name)
    assert written.code == 0, written.err
    check, run = (line.split() for line in written.out.splitlines()[1:])
    assert check == ["python", "-m", "bench", "check", f"{name}.py"]
    for title, found in contracts_of(here / f"{name}.py"):
        assert title == f"{kind} {name}"
        assert [v.promise for v in found if v.problem] == []
    assert run[:6] == ["python", "-m", "bench", "run", "--suite", "digits"]
    narrow = ("--evaluation", "accuracy", "--evaluation", "pgd_l2") if kind == "defense" else ()
    done = cli(*run[3:], *narrow, *SMALL)
    assert done.code == 0, done.err
    found = bench.load_results("out")
    assert found.leaderboard["rank"].notna().all()
    assert len(found.leaderboard) == 2
    assert kind != "defense" or name in set(found.leaderboard["defense"])
    assert kind == "defense" or any(name in column for column in found.leaderboard.columns)


def test_the_suite_runs_as_it_is(here, cli):
    written = cli("new", "suite", "mine")
    assert written.out.splitlines()[1].strip() == "python -m bench suite check mine.toml"
    checked = cli(*written.out.splitlines()[1].split()[3:])
    assert checked.code == 0, checked.err
    assert "trainings: 2, evaluations: 8" in checked.out
    done = cli("run", "--suite", "mine.toml", "--evaluation", "accuracy", "--evaluation", "pgd_l2", *SMALL)
    assert done.code == 0, done.err
    assert bench.load_results("out").leaderboard["rank"].tolist() == [1, 2]


def test_the_next_commands_can_be_pasted_whatever_the_folder_is_called(here, cli):
    written = cli("new", "defense", "brand_new", "--to", here / "of 'mine'")
    check, run = (shlex.split(line) for line in written.out.splitlines()[1:])
    assert check[4] == run[7] == str(here / "of 'mine'" / "brand_new.py")


def test_files_are_never_written_over_and_names_are_checked(here, cli):
    assert cli("new", "defense", "brand_new", "--to", here).code == 0
    text = (here / "brand_new.py").read_text()
    for arguments, words in (
        (("defense", "brand_new"), "expected a file that is not there yet, got 'brand_new.py'"),
        (("defence", "other"), "Did you mean 'defense'?"),
        (("defense", "lcnn"), "expected a new name, got 'lcnn', which bench has"),
        (("suite", "digits"), "expected a new name, got 'digits'"),
        (("attack", "two words"), "expected up to 40 letters, digits and _"),
        (("attack", "class"), "expected up to 40 letters, digits and _"),
        (("attack", "a/b"), "expected up to 40 letters, digits and _"),
        (("evaluation", "_private"), "expected a name of your own"),
        (("evaluation", "x" * 41), "expected up to 40 letters"),
    ):
        done = cli("new", *arguments)
        assert (done.code, words in done.err) == (2, True), (arguments, done.err)
    assert (here / "brand_new.py").read_text() == text
    assert sorted(p.name for p in here.iterdir()) == ["brand_new.py"]


def test_check_names_what_is_broken(here, cli):
    (here / "broken.py").write_text(
        "import torch, bench\n"
        '@bench.attack(source="here", norms=("l2",))\n'
        "def far(model, x, y, *, eps, norm='l2', seed=0):\n"
        '    """Go too far."""\n'
        "    return x + torch.rand_like(x)\n"
    )
    done = cli("check", "broken.py")
    assert done.code == 1
    assert "BROKEN  its points are images within the radius" in done.out
    assert "BROKEN  the same seed gives the same points" in done.out
    assert "kept    the model is left as it was" in done.out
    assert "l2: expected pixels in [0, 1]" in done.err
    (here / "empty.py").write_text("x = 1\n")
    nothing = cli("check", "empty.py")
    assert nothing.code == 2
    assert "expected a file that registers a defense" in nothing.err


def test_comments_name_only_what_there_is():
    suite = tomllib.loads(template("suite").replace("NAME", "brand_new"))
    for name in suite["defenses"]:
        assert name in registry.defenses
    for name in suite["evaluations"]:
        assert name in registry.evaluations
    assert all("python -m bench" in template(kind) for kind in KINDS)
