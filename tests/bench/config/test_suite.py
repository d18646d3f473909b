"""Suite files: what they mean, what the command line changes, and the one line for each thing wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.config.defense_spec import parse_defense_spec as parse
from bench.config.suite_file import load_suite, suites
from bench.core import registry
from bench.core.decorators import evaluation
from bench.core.errors import UsageError
from bench.core.recipe import PAPER
from bench.core.records import Column, Role, ThreatModel
from bench.core.registry import defenses

GOOD = """
name = "mine"
description = '''Two lines
of text.'''
dataset = "digits"
backbone = "convnet"
seeds = [3, 1]
primary_eps = 0.5
defenses = ["standard", "lcnn:lambda_gamma=1e-2,lambda_beta=0.01"]
[recipe]
epochs = 2
schedule = "onecycle"
[evaluations.accuracy]
[evaluations.pgd_l2]
eps = [0.5, 0.1]
steps = 7
[evaluations.on_train]
evaluation = "curvature"
split = "train"
limit = 10
seed = 4
"""


def write(folder: Path, text: str = GOOD) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, old: str, new: str) -> str:
    """Return the message that the good file gives with one text replaced."""
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        load_suite(write(folder, GOOD.replace(old, new)))
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in text
    assert text.startswith("mine.toml: ")
    return text.removeprefix("mine.toml: ")


class TestReading:
    def test_a_threat_may_have_another_norm(self, tmp_path: Path) -> None:
        text = GOOD.replace("primary_eps = 0.5\n", "threat = {norm = 'linf', eps = 0.1}\n").replace(
            "pgd_l2", "pgd_linf"
        )
        suite = load_suite(write(tmp_path, text))
        assert suite.threat == ThreatModel("linf", 0.1)
        assert suite.primary_eps == 0.1

    def test_radii_may_be_fractions(self, tmp_path: Path) -> None:
        text = GOOD.replace("primary_eps = 0.5\n", "threat = {norm = 'linf', eps = '8/255'}\n").replace(
            "pgd_l2", "pgd_linf"
        )
        suite = load_suite(write(tmp_path, text.replace("[0.5, 0.1]", "['8/255', 0.1]")))
        assert suite.threat == ThreatModel("linf", 8 / 255)
        assert suite.evaluations[1].arguments["eps"] == [8 / 255, 0.1]

    def test_the_attack_that_ranks_is_known_by_its_columns_and_not_by_its_name(self, tmp_path: Path) -> None:
        def unusual(model: Any, x: Any, y: Any, *, seed: int = 0, radius: tuple[float, ...] = (0.25,)) -> None:
            """Measure."""

        def columns(role: Role) -> dict[str, Column]:
            params: dict[str, float | str] = {"norm": "linf", "eps": 0.25}
            return {"unusual_{radius}": Column("x", kind="flag", role=role, params=params)}

        text = GOOD.replace("primary_eps = 0.5\n", "threat = {norm = 'linf', eps = 0.25}\n")
        text += "[evaluations.unusual]\nradius = [0.5]\n"
        add = evaluation(source="test", columns=columns("robust"))
        try:
            add(unusual)
            assert load_suite(write(tmp_path, text)).threat.eps == 0.25
            evaluation(source="test", columns=columns("certified"))(unusual)
            with pytest.raises(UsageError, match="threat: expected one that an attack of the suite measures"):
                load_suite(write(tmp_path, text))
        finally:
            registry.evaluations._entries.pop("unusual")

    def test_every_key_arrives(self, tmp_path: Path) -> None:
        suite = load_suite(write(tmp_path))
        assert suite.name == "mine"
        assert suite.description == "Two lines of text."
        assert suite.seeds == (3, 1)
        assert tuple(map(str, suite.defenses)) == ("standard", "lcnn:lambda_beta=0.01,lambda_gamma=0.01")
        assert suite.recipe.epochs == 2
        assert suite.recipe.schedule == "onecycle"
        assert suite.recipe.lr == PAPER.lr  # what the file leaves out is the paper's
        assert (suite.audit, suite.holdout, suite.store_adversarial) == (0, 0, "primary")

    def test_evaluations_keep_their_order_and_get_their_defaults(self, tmp_path: Path) -> None:
        accuracy, pgd, curvature = load_suite(write(tmp_path)).evaluations
        assert (accuracy.key, accuracy.evaluation, accuracy.limit, accuracy.split, accuracy.seed) == (
            "accuracy", "accuracy", None, "test", 0,
        )  # fmt: skip
        assert pgd.arguments["eps"] == [0.1, 0.5]
        assert pgd.arguments["steps"] == 7
        assert (curvature.key, curvature.evaluation) == ("on_train", "curvature")
        assert (curvature.limit, curvature.split, curvature.seed) == (10, "train", 4)
        assert curvature.arguments["steps"] == 10

    def test_is_frozen(self, tmp_path: Path) -> None:
        suite = load_suite(write(tmp_path))
        with pytest.raises(AttributeError):
            suite.name = "other"  # type: ignore[misc]

    def test_recipes_stack_spec_over_command_line_over_defense_over_suite(self, tmp_path: Path) -> None:
        suite = load_suite(write(tmp_path))
        assert suite.recipe_of(parse("lcnn")).epochs == 2
        assert suite.recipe_of(parse("lcnn")).loss is defenses.get("lcnn").recipe.loss
        forced = suite.with_overrides(epochs=5)
        assert forced.recipe_of(parse("lcnn")).epochs == 5
        assert forced.recipe_of(parse("lcnn:epochs=9,lr=0.01")).epochs == 9
        assert forced.recipe_of(parse("lcnn:epochs=9,lr=0.01")).lr == 0.01
        assert forced.recipe_of(parse("lcnn")).momentum == PAPER.momentum
        both = forced.with_overrides(precision="bf16")
        assert (both.recipe_of(parse("lcnn")).precision, both.recipe_of(parse("lcnn")).epochs) == ("bf16", 5)
        assert both.recipe_of(parse("lcnn:precision=fp32")).precision == "fp32"
        with pytest.raises(UsageError, match=r"^--precision: expected 'auto', 'fp32', 'tf32' or 'bf16'"):
            suite.with_overrides(precision="half")


class TestComplaints:
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('name = "mine"\n', "", "name: expected a value, got nothing. Add the key 'name'."),
            ('name = "mine"', "name = 3", "name: expected a text in quotes, got 3. Change the value."),
            ('name = "mine"', 'name = "../up"', "name: "),
            ("primary_eps", "primary_epz", "primary_epz: expected a known key, got 'primary_epz'. Did you mean 'pr"),
            (
                "primary_eps = 0.5\n",
                "",
                "expected either [threat] or primary_eps, got neither. Write primary_eps = 0.5.",
            ),
            (
                "[recipe]",
                "[threat]\nnorm = 'l2'\neps = 0.5\n[recipe]",
                "expected either [threat] or primary_eps, got both.",
            ),
            (
                "primary_eps = 0.5\n",
                "threat = {norm = 'l1', eps = 0.5}\n",
                "threat.norm: expected 'l2' or 'linf', got 'l1'.",
            ),
            (
                "primary_eps = 0.5\n",
                "threat = {norm = 'l2', eps = 0.0}\n",
                "threat.eps: expected a number > 0, got 0",
            ),
            (
                "primary_eps = 0.5\n",
                "threat = {norm = 'linf', eps = 2.0}\n",
                "threat.eps: expected every eps between 0 and 1 (pixels",
            ),
            (
                "primary_eps = 0.5\n",
                "threat = {norm = 'linf', eps = 0.5}\n",
                "threat: expected one that an attack of the suite measures (l2 0.1, l2 0.5), got linf 0.5. Add its eps",
            ),
            (
                "seeds = [3, 1]",
                "seeds = [3]\nsedes = 2",
                "sedes: expected a known key, got 'sedes'. Did you mean 'seeds'?",
            ),
            ("seeds = [3, 1]", 'seeds = "3"', "seeds: expected a list in brackets, got '3'"),
            ("seeds = [3, 1]", "seeds = [3, true]", "seeds.1: expected a whole number, got True"),
            ("seeds = [3, 1]", "seeds = [3, 1.5]", "seeds.1: expected a whole number, got 1.5"),
            ("seeds = [3, 1]", "seeds = [3, 3]", "seeds: expected different whole numbers from 0 to 2^63, got [3, 3]"),
            ("seeds = [3, 1]", "seeds = [-1]", "seeds: expected different whole numbers from 0 to 2^63, got [-1]"),
            ("seeds = [3, 1]", "seeds = []", "seeds: expected at least one, got []"),
            ("seeds = [3, 1]", "seeds = [3, 1", "expected TOML, got "),
            ('"digits"', '"cifar01"', "dataset: expected a known data set, got 'cifar01'. Did you mean 'cifar10'?"),
            ('"convnet"', '"convnte"', "got 'convnte'. Did you mean 'convnet'?"),
            (
                '"convnet"',
                '"convnet-w0"',
                "backbone: expected a width of at least 1, got 'convnet-w0'. Default: convnet",
            ),
            ("= 0.5\n", "= -0.5\n", "primary_eps: expected a number > 0, got -0.5"),
            ("= 0.5\n", "= nan\n", "primary_eps: expected "),
            ("= 0.5\n", "= 128\n", "primary_eps: expected every eps between 0 and 8 (pixels are in [0, 1]), got 128."),
            (
                "= 0.5\n",
                "= 0.3\n",
                "threat: expected one that an attack of the suite measures (l2 0.1, l2 0.5), got l2 0.3. Add its eps",
            ),
            ("epochs = 2", "epochs = 0", "recipe.epochs: expected a number >= 1, got 0"),
            ("epochs = 2", "epoch = 2", "recipe.epoch: expected a known key, got 'epoch'. Did you mean 'epochs'?"),
            ("epochs = 2", 'epochs = "2"', "recipe.epochs: expected a whole number, got '2'"),
            ("epochs = 2", "lr = inf", "recipe.lr: expected a finite number, got inf"),
            ("epochs = 2", "milestones = [0.8, 0.5]", "recipe.milestones: expected rising fractions between 0 and 1"),
            ('"onecycle"', '"cosine"', "recipe.schedule: expected 'step' or 'onecycle', got 'cosine'"),
            ('"standard"', '"standrad"', "defenses: expected a registered defense, got 'standrad'."),
            (
                '"standard"',
                '"gradreg", "gradreg"',
                "defenses: expected each defense once, got 'gradreg' twice. Remove one.",
            ),
            (
                "lambda_gamma",
                "lambda_gama",
                "defenses: lcnn: expected one of its settings, got 'lambda_gama'. Did you mean 'lambda_g",
            ),
            ("pgd_l2]", "pdg_l2]", "evaluations.pdg_l2: expected a registered evaluation, got 'pdg_l2'."),
            ("pgd_l2]", "pdg_l2]", "Did you mean 'pgd_l2'?"),
            (
                '"curvature"',
                '"curvture"',
                "evaluations.on_train: expected a registered evaluation, got 'curvture'",
            ),
            (
                "steps = 7",
                "stpes = 7",
                "evaluations.pgd_l2: expected an argument of pgd_l2, got 'stpes'. Did you mean 'st",
            ),
            ("steps = 7", "steps = 7.5", "evaluations.pgd_l2.steps: expected a whole number >= 1, got 7.5"),
            ("steps = 7", "steps = true", "evaluations.pgd_l2.steps: expected a whole number >= 1, got True"),
            (
                "[0.5, 0.1]",
                "[0.5, -0.1]",
                "evaluations.pgd_l2.eps: expected every eps between 0 and 8 (pixels are in [0, 1])",
            ),
            ("[0.5, 0.1]", "[0.5, nan]", "evaluations.pgd_l2.eps: expected a finite number, got nan"),
            ("[0.5, 0.1]", "[0.5, 128]", 'got 128. For 8 of 255 levels write "8/255".'),
            ("[0.5, 0.1]", "[]", "evaluations.pgd_l2.eps: expected a list, each a finite number, got an empty list"),
            ("[0.5, 0.1]", '["0.5"]', "evaluations.pgd_l2.eps: expected a finite number, got '0.5'"),
            (
                "seed = 4",
                f"seed = {10**26}",
                "evaluations.on_train.seed: expected a number <= 9223",
            ),
            ("[3, 1]", f"[3, {10**26}]", "seeds: expected different whole numbers from 0 to 2^63, got [3, 1000000"),
            (
                "[3, 1]",
                f"[3, 0x{'f' * 5000}]",
                "seeds: expected different whole numbers from 0 to 2^63, got a number of",
            ),
            ("[3, 1]", f"[3, {'9' * 5000}]", "expected TOML, got Exceeds the limit"),
            ("[3, 1]", "[" * 2000 + "]" * 2000, "expected TOML, got brackets nested too deeply. Remove some."),
            ("seed = 4", f"steps{'.a' * 5000} = 4", "evaluations.on_train.steps: expected a whole number"),
            ("epochs = 2", "lr = nan", "recipe.lr: expected a finite number, got nan. Change the value."),
            ("epochs = 2", "lr = true", "recipe.lr: expected a number, got True. Change the value."),
            ("epochs = 2", f"epochs = {10**26}", "recipe.epochs: expected a number <= 9223372036854775807"),
            ("= 0.5\n", '= "1/0"\n', "primary_eps: expected a number, got '1/0'"),
            ("limit = 10", "limit = 0", "evaluations.on_train.limit: expected a number >= 1, got 0"),
            ('split = "train"', 'split = "val"', "evaluations.on_train.split: expected 'test' or 'train', got 'val'"),
            ("seed = 4", "seed = -4", "evaluations.on_train.seed: expected a number >= 0, got -4"),
            (
                "[evaluations.accuracy]",
                "[evaluations]\naccuracy = 3",
                "evaluations.accuracy: expected a table, got 3",
            ),
        ],
    )
    def test_one_line_with_file_key_expected_and_got(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        found = complaint(tmp_path, old, new)
        assert found.startswith(message) or message in found

    def test_linf_radii_are_at_most_one(self, tmp_path: Path) -> None:
        text = complaint(tmp_path, "[evaluations.pgd_l2]\neps = [0.5, 0.1]", "[evaluations.pgd_linf]\neps = [8, 0.5]")
        assert "evaluations.pgd_linf.eps: expected every eps between 0 and 1" in text

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_bytes(b"name = '\xff\xfe'")
        with pytest.raises(UsageError, match=r"mine\.toml: expected TOML, got .*utf-8"):
            load_suite(path)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("cifra10", "--suite: expected a suite's name or a TOML file, got 'cifra10'. Did you mean 'cifar10'?"),
            ("no/such.toml", "--suite: expected a suite's name or a TOML file, got 'no/such.toml', which is none."),
            ("digits.toml", "--suite: expected a suite's name or a TOML file, got 'digits.toml', which is none."),
        ],
    )
    def test_no_such_suite(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError) as caught:
            load_suite(name)
        assert str(caught.value).startswith(message)

    def test_a_path_with_spaces_and_unicode(self, tmp_path: Path) -> None:
        folder = tmp_path / "mine: größe"
        folder.mkdir()
        assert load_suite(str(write(folder))).name == "mine"


class TestNarrowing:
    def test_nothing_changes_nothing(self, tmp_path: Path) -> None:
        suite = load_suite(write(tmp_path))
        assert suite.with_overrides() == suite
        assert suite.with_overrides(defenses=(), evaluations=[], seeds=None) == suite

    def test_a_backbone_has_one_name_so_that_its_cells_are_found_again(self, tmp_path: Path) -> None:
        suite = load_suite(write(tmp_path))
        assert suite.with_overrides(backbone="convnet-w16") == suite
        assert load_suite(write(tmp_path, GOOD.replace('"convnet"', '"convnet-w16"'))) == suite

    def test_each_option(self, tmp_path: Path) -> None:
        suite = load_suite(write(tmp_path)).with_overrides(
            defenses=["gradreg", "lcnn:beta0=2.50"], evaluations=["pgd_l2"], seeds=[7], limit=5, backbone="mlp"
        )
        assert tuple(map(str, suite.defenses)) == ("gradreg", "lcnn:beta0=2.5")
        assert [e.key for e in suite.evaluations] == ["pgd_l2"]
        assert suite.seeds == (7,)
        assert suite.backbone == "mlp"
        assert suite.backbone_of(parse("lcnn:backbone=convnet-w8")) == "convnet-w8"
        assert suite.backbone_of(parse("lcnn")) == "mlp"

    def test_a_limit_never_raises_a_smaller_one(self, tmp_path: Path) -> None:
        limits = {e.key: e.limit for e in load_suite(write(tmp_path)).with_overrides(limit=50).evaluations}
        assert limits == {"accuracy": 50, "pgd_l2": 50, "on_train": 10}
        assert {e.limit for e in load_suite(write(tmp_path)).with_overrides(limit=3).evaluations} == {3}

    def test_an_evaluation_that_the_suite_lacks_comes_with_its_defaults(self, tmp_path: Path) -> None:
        (stability,) = load_suite(write(tmp_path)).with_overrides(evaluations=["stability"]).evaluations
        assert stability.arguments["radius"] == [0.001, 0.003, 0.01, 0.03, 0.1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"defenses": ["lcn"]}, "--defense: expected a registered defense, got 'lcn'. Did you mean"),
            (
                {"evaluations": ["on_trian"]},
                "--evaluation: expected a known evaluation, got 'on_trian'. Did you mean 'on_t",
            ),
            (
                {"evaluations": ["acuracy"]},
                "--evaluation: expected a known evaluation, got 'acuracy'. Did you mean 'acc",
            ),
            ({"seeds": [1, 1]}, "--seeds: expected different whole numbers from 0 to 2^63, got [1, 1]"),
            ({"epochs": 0}, "--epochs: expected a number >= 1, got 0"),
            ({"backbone": "resnet81"}, "--backbone: expected a backbone or NAME-wWIDTH, got 'resnet81'. Did you mean"),
        ],
    )
    def test_complaints(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        suite = load_suite(write(tmp_path))
        with pytest.raises(UsageError) as caught:
            suite.with_overrides(**options)
        assert str(caught.value).startswith(message)


class TestList:
    def test_names_every_file_and_neither_it_nor_the_data_layer_needs_torch(self) -> None:
        code = (
            "import sys; from bench.data import catalog; from bench.config.suite_file import suites; "
            "catalog.load('two-moons', limit=5); "
            "print(len(suites())); assert 'torch' not in sys.modules"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], capture_output=True, text=True
        )
        files = list((Path(__file__).parents[3] / "bench" / "suites").glob("*.toml"))
        assert int(found.stdout) == len(suites()) == len(files) > 10

    def test_entries_have_the_keys_of_a_list(self) -> None:
        for entry in suites():
            assert {"name", "source", "version", "hyperparameters", "description", "dataset"} <= entry.keys()
            assert entry["source"]
            assert entry["description"]


MANY = """
name = "t"
dataset = "digits"
backbone = "convnett"
seeds = [0, 0]
primary_eps = 0.5
defences = ["cure"]
[recipe]
epochz = 2
lr = -1
[evaluations.pgd_l2]
eps = [50.0]
stepz = 3
limit = 0
[evaluations.acuracy]
"""


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, cli: Any) -> None:
    expected = [
        "description: expected a value, got nothing. Add the key 'description'.",
        "recipe.lr: expected a number > 0, got -1. Change the value.",
        "recipe.epochz: expected a known key, got 'epochz'. Did you mean 'epochs'?",
        "defences: expected a known key, got 'defences'. Did you mean 'defenses'?",
        "backbone: expected a backbone or NAME-wWIDTH, got 'convnett'. Did you mean 'convnet'?",
        "seeds: expected different whole numbers from 0 to 2^63, got [0, 0]. Name each seed once.",
        "evaluations.pgd_l2: expected an argument of pgd_l2, got 'stepz'. Did you mean 'steps'?",
        "evaluations.pgd_l2.eps: expected every eps between 0 and 8 (pixels are in [0, 1]), got 50. For 8 of 255 "
        'levels write "8/255".',
        "evaluations.pgd_l2.limit: expected a number >= 1, got 0. Change the value.",
        "evaluations.acuracy: expected a registered evaluation, got 'acuracy'. Did you mean 'accuracy'?",
    ]
    path = write(tmp_path, MANY)
    with pytest.raises(UsageError) as caught:
        load_suite(path)
    assert caught.value.messages == tuple(f"mine.toml: {line}" for line in expected)
    done = cli("run", "--suite", path, "--quiet")
    assert (done.code, done.err.splitlines()) == (2, [f"mine.toml: {line}" for line in expected])


HIDDEN = """
name = "mine"
description = "d"
dataset = 3
backbone = "convnet"
seeds = [0, 0, -1, 1.5]
defenses = ["lcn", 3]
[threat]
norm = "linf"
eps = 3
[evaluations]
accuracy = 3
[evaluations.pgd_l2]
eps = [0.5, -1, -2, "x"]
"""


def test_no_error_hides_behind_another_one_of_the_same_key_or_of_another(tmp_path: Path) -> None:
    """The right items of a wrong list are looked at, and radii where the images' shape is not known."""
    expected = [
        "dataset: expected a text in quotes, got 3. Change the value.",
        "seeds.3: expected a whole number, got 1.5. Change the value.",
        "defenses.1: expected a text in quotes, got 3. Change the value.",
        "evaluations.accuracy: expected a table, got 3. Change the value.",
        "threat.eps: expected every eps between 0 and 1 (pixels are in [0, 1]), got 3. For 8 of 255 levels write "
        '"8/255".',
        "seeds: expected different whole numbers from 0 to 2^63, got [0, 0, -1]. Name each seed once.",
        "defenses: expected a registered defense, got 'lcn'. Did you mean 'lcnn'?",
        "evaluations.pgd_l2.eps: expected a finite number, got 'x'. Change the value.",
        "evaluations.pgd_l2.eps: expected every eps from 0 up, got -2. A radius is not negative.",
        "evaluations.pgd_l2.eps: expected every eps from 0 up, got -1. A radius is not negative.",
    ]
    with pytest.raises(UsageError) as caught:
        load_suite(write(tmp_path, HIDDEN))
    assert caught.value.messages == tuple(f"mine.toml: {line}" for line in expected)
