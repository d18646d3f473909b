"""The pipeline's judgement of attacks, and the evaluations made of them."""

import math

import pytest
import torch
from torch import nn

from bench.config.evaluation_config import parse_evaluation
from bench.core import discovery, registry
from bench.core.errors import BenchError, UsageError
from bench.core.records import Column
from bench.core.torch_state import full_precision
from bench.evaluations import robustness
from bench.measuring.attack_call import CONFIRM
from bench.measuring.attack_columns import robust_columns
from bench.measuring.budgets import DEFAULT_EPS
from bench.measuring.judge import judge, predict
from tests.attacks.known import Linear, flags, size
from tests.attacks.test_closed_form import exact_distance, middle, problem

MODEL = Linear(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5]))  # wrong where pixel 0 < 0.5


def image(*pixels):
    return torch.tensor(pixels).view(-1, 1, 1, 2)


def test_a_verdict_needs_ball_box_and_misclassification():
    x = image([0.6, 0.0], [0.6, 0.0], [0.6, 0.0], [0.6, 0.0])
    y = torch.zeros(4, dtype=torch.long)
    proposed = image([0.45, 0.0], [0.55, 0.0], [0.2, 0.0], [0.45, -0.5])
    verdict = judge(MODEL, x, y, proposed, eps=0.2, norm="l2")
    assert verdict.broken.tolist() == [True, False, False, True], "the last is inside the ball once clipped"
    assert verdict.refused.tolist() == [False, False, True, False]
    assert verdict.x_adv.min() >= 0
    assert torch.allclose(verdict.distance, torch.tensor([0.15, 0.05, 0.4, 0.15]), atol=1e-6)


@pytest.mark.parametrize(("over", "broken"), [(5e-6, True), (3e-5, False)])
def test_the_ball_has_a_tolerance_of_one_in_a_hundred_thousand(over, broken):
    x, eps = image([0.75, 0.0]), 0.5
    verdict = judge(MODEL, x, torch.tensor([0]), image([0.75 - eps * (1 + over), 0.0]), eps=eps, norm="linf")
    assert verdict.broken.item() is broken
    assert verdict.refused.item() is not broken


@pytest.mark.parametrize(
    ("proposed", "message"),
    [
        (torch.full((1, 1, 1, 2), torch.nan), "expected finite adversarial images"),
        (torch.zeros(1, 2), "expected adversarial images of shape"),
    ],
)
def test_nonsense_from_an_attack_is_an_error(proposed, message):
    with pytest.raises(BenchError, match=message):
        judge(MODEL, image([0.6, 0.0]), torch.tensor([0]), proposed, eps=0.1, norm="l2")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_model_that_answers_nan_is_never_robust(bad):
    class Sick(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), bad)

    with pytest.raises(BenchError, match="expected finite logits, got NaN or infinity on 2 of 2 points"):
        predict(Sick(), torch.rand(2, 1, 2, 2))


def test_the_judge_works_in_float32_without_tf32_and_autocast(monkeypatch):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append((x.dtype, torch.is_autocast_enabled("cpu"), torch.backends.cudnn.allow_tf32))
            return torch.zeros(len(x), 3)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predict(Spy(), torch.rand(1, 1, 2, 2, dtype=torch.float64))
        assert torch.is_autocast_enabled("cpu")
    assert seen == [(torch.float32, False, False)]
    assert torch.backends.cudnn.allow_tf32


def test_full_precision_serves_whoever_uses_the_newer_switches():
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"  # from here on torch refuses to read allow_tf32
        with full_precision("cpu"):
            assert conv.fp32_precision == "ieee"
        assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = before


class Rounds(nn.Module):
    """A linear model with two classes, whose logits are off by 0.2 wherever TF32 is allowed."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, x):
        allowed = torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
        self.passes.append(allowed)
        z = 0.5 - x.flatten(1).mean(1) - 0.2 * allowed
        return torch.stack([z, -z], 1)


def to_grey(model, x, y, *, eps, norm, seed, trace):
    """Move to the least brightness that the model takes for class 1, and claim success."""
    with torch.no_grad():
        found = next(p for g in (0.35, 0.45, 0.55) if (model(p := torch.full_like(x, g)).argmax(1) == 1).all())
    trace.update(broken_by=["grey"] * len(x), tried=torch.ones(len(x), dtype=torch.long), path=["per step"] * 7)
    return found


@pytest.mark.parametrize("search", ["fp32", "tf32"])
def test_tf32_searches_and_fp32_judges(search):
    """What only the rounding broke is attacked again in fp32: the verdict is that of a search in fp32."""
    model, x = Rounds(), torch.full((3, 1, 2, 2), 0.2)
    with full_precision("cpu"):
        found = robust_columns(
            model, x, torch.zeros(3, dtype=torch.long), attack=to_grey, prefix="a_l2", eps=[2.0], norm="l2", seed=0,
            arguments={}, extra={"tried": Column("", kind="count")}, search=search,
        )  # fmt: skip
    assert not found["a_l2_2_robust"].any()
    assert not found["a_l2_2_refused"].any()
    torch.testing.assert_close(found["a_l2_2_adversarial"], torch.full_like(x, 0.55))
    assert found["a_l2_2_broken_by"] == ["grey"] * 3
    assert True in model.passes if search == "tf32" else True not in model.passes
    assert model.passes[-1] is False, "the last word"


def test_another_search_precision_is_refused():
    with pytest.raises(UsageError, match="a_l2: expected search to be fp32 or tf32, got 'bf16'"):
        robust_columns(MODEL, torch.rand(1, 1, 1, 2), torch.tensor([0]), attack=to_grey, prefix="a_l2", eps=[0.1],
                       norm="l2", seed=0, arguments={}, search="bf16")  # fmt: skip


def scripted(answers):
    """Return an attack that gives prepared points per budget and counts what it is asked."""
    asked = []

    def attack(model, x, y, *, eps, norm, seed, trace=None):
        asked.append((eps, len(x)))
        found, stages = answers(x, eps)
        if trace is not None and stages is not None:
            trace["broken_by"] = stages
        return found

    return attack, asked


def columns_of(attack, x, y, eps, model=MODEL, **rest):
    return robust_columns(model, x, y, attack=attack, prefix="a_l2", eps=eps, norm="l2", seed=0, arguments={}, **rest)


def test_budgets_go_downward_and_a_survivor_of_the_larger_ball_is_not_attacked_again():
    x = image([0.55, 0.0], [0.7, 0.0], [0.9, 0.0], [0.2, 0.0])
    y = torch.zeros(4, dtype=torch.long)

    def answers(x, eps):
        return x - torch.tensor([eps, 0.0]), None

    attack, asked = scripted(answers)
    c = columns_of(attack, x, y, [0.25, 0.1, 0.1], confirm=0)
    assert asked == [(0.25, 3), (0.1, 2)], "largest first, each once; neither the wrong nor the robust one again"
    assert c["a_l2_0.1_robust"].tolist() == [False, True, True, False]
    assert c["a_l2_0.25_robust"].tolist() == [False, False, True, False]
    assert c["a_l2_0.25_distance"].tolist() == pytest.approx([0.1, 0.25, math.nan, 0.0], nan_ok=True)
    assert c["a_l2_0.25_broken_by"] == ["a_l2", "a_l2", "", "clean"]
    adversarial = c["a_l2_0.25_adversarial"]
    assert not flags(MODEL, adversarial, y)[[0, 1, 3]].any()
    assert torch.equal(adversarial[2:], x[2:])
    assert (size(adversarial - x, "l2") <= 0.25 * (1 + 1e-5)).all()
    assert c["a_l2_0.1_inferred"].tolist() == [False, False, True, False]
    assert not c["a_l2_0.25_inferred"].any()
    assert not c["a_l2_0.1_missed"].any() | c["a_l2_0.25_missed"].any()


def test_what_the_larger_ball_missed_is_found_in_the_sample_and_counts_there_too():
    """An attack that overshoots in the large ball: only examples drawn for confirmation show it."""
    x = image(*[[0.55, i / 100] for i in range(100)])
    y = torch.zeros(100, dtype=torch.long)

    def overshoots(x, eps):
        return x - torch.tensor([eps if eps < 0.2 else -eps, 0.0]), None

    every, asked = scripted(overshoots)
    c = columns_of(every, x, y, [0.1, 0.3], confirm=1)
    assert asked == [(0.3, 100), (0.1, 100)]
    assert not c["a_l2_0.3_robust"].any(), "the small ball's point lies in the large one"
    assert c["a_l2_0.3_missed"].all()
    assert c["a_l2_0.3_distance"].tolist() == pytest.approx([0.1] * 100)

    some, asked = scripted(overshoots)
    c = columns_of(some, x, y, [0.1, 0.3], confirm=0.3)
    drawn = c["a_l2_0.3_missed"]
    assert asked == [(0.3, 100), (0.1, int(drawn.sum()))]
    assert 15 <= drawn.sum() <= 45
    assert torch.equal(c["a_l2_0.1_inferred"], ~drawn)
    assert torch.equal(c["a_l2_0.1_robust"], ~drawn)
    halves = [columns_of(scripted(overshoots)[0], x[i], y[i], [0.1, 0.3], confirm=0.3)["a_l2_0.3_missed"]
              for i in (slice(0, 37), slice(37, 100))]  # fmt: skip
    assert torch.equal(torch.cat(halves), drawn), "the draw belongs to the example, not to the batch"

    none, asked = scripted(overshoots)
    columns_of(none, x, y, [0.1, 0.3], confirm=0)
    assert asked == [(0.3, 100)]


def test_stages_are_kept_and_a_claim_that_does_not_hold_is_counted():
    x = image([0.55, 0.0], [0.7, 0.0], [0.9, 0.0])
    attack, _ = scripted(lambda x, eps: (x - torch.tensor([0.1, 0.0]), ["first", "second", ""]))
    c = columns_of(attack, x, torch.zeros(3, dtype=torch.long), [0.1])
    assert c["a_l2_0.1_broken_by"] == ["first", "", ""]
    assert c["a_l2_0.1_robust"].tolist() == [False, True, True]
    assert c["a_l2_0.1_refused"].tolist() == [False, True, False], "it said 'second' had broken it"


def test_robust_accuracy_at_zero_is_clean_accuracy_and_costs_nothing():
    x = image([0.55, 0.0], [0.2, 0.0])
    attack, asked = scripted(lambda x, eps: (x, None))
    c = columns_of(attack, x, torch.zeros(2, dtype=torch.long), [0.0])
    assert c["a_l2_0_robust"].tolist() == [True, False]
    assert asked == []


@pytest.mark.parametrize("eps", [[-0.1], [math.nan], [128.0], [math.inf], []])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_impossible_budgets_are_refused(eps, norm):
    evaluate = registry.evaluations.get(f"fgsm_{norm}").function
    with pytest.raises(UsageError, match="expected"):
        evaluate(MODEL, image([0.6, 0.0]), torch.tensor([0]), eps=eps)


def test_nan_inside_an_attack_fails_the_cell():
    class Sick(nn.Module):
        def forward(self, x):
            good = MODEL(x)
            return torch.where((x[:, 0, 0, :1] == 0.6), good, torch.nan)

    with pytest.raises(BenchError, match="expected finite logits"):
        registry.evaluations.get("pgd_l2").function(Sick(), image([0.6, 0.0]), torch.tensor([0]), eps=[0.05])


@pytest.mark.parametrize("name", ["pgd_l2", "pgd_linf", "autoattack_l2", "square_l2", "fab_linf", "apgd_l2"])
def test_every_attack_is_an_evaluation_per_norm(name):
    entry = registry.evaluations.get(name)
    attack, _, norm = name.partition("_")
    ours = registry.attacks.get(attack)
    assert entry.function.__name__ == name
    assert entry.attack is ours
    assert set(ours.hyperparameters) - {"eps"} <= set(entry.hyperparameters)
    assert entry.version == ours.version
    model, x, y = problem(4, 25, box=False, n=20)
    x = x.reshape(-1, 1, 5, 5)
    exact = exact_distance(model, x, y, norm, box=False)
    eps = middle(exact)
    few = {"autoattack": {"steps": 15, "n_queries": 50}, "square": {"n_queries": 300}}.get(attack, {})
    columns = entry.function(model, x, y, seed=0, eps=[eps], **few)
    robust = columns[f"{name}_{eps:g}_robust"]
    assert robust[exact > 1.001 * eps].all()
    assert not robust[exact < 0.5 * eps].any()
    declared = {pattern.replace("{eps}", f"{eps:g}") for pattern in entry.columns}
    assert set(columns) <= declared
    assert entry.columns[f"{name}_{{eps}}_robust"].board == f"{name}_{{eps}}"


def test_registering_again_changes_nothing():
    before = [e.name for e in registry.evaluations]
    for attack in registry.attacks:
        robustness.register(attack)
    assert [e.name for e in registry.evaluations] == before
    parameters = registry.evaluations.get("pgd_l2").parameters
    assert list(parameters)[:4] == ["eps", "search", "confirm", "peer"]
    assert not {"seed", "norm", "trace", "adaptive"} & set(parameters)


TWO_ATTACKS = """
import torch, bench

@bench.attack(source="x", extra={"steps_used": bench.Column("How many.", kind="count"),
                                 "gain": bench.Column("How much.", kind="value")}, chunk=7, ranks=3)
def first(model, x, y, *, eps, norm="l2", seed=0, trace=None):
    trace.update(steps_used=torch.full((len(x),), 4), gain=torch.full((len(x),), 0.5))
    return x

@bench.attack(source="y", norms=("l2",))
def second(model, x, y, *, eps, norm="l2", seed=0, power: int = 2):
    return x
"""


@pytest.fixture
def include(tmp_path):
    """Include a file as `--include` does, and forget what it registered."""
    before = {kind: dict(kind._entries) for kind in (registry.attacks, registry.evaluations)}

    def included(text):
        path = tmp_path / "attacks_of_a_user.py"
        path.write_text(text)
        return discovery.include(path)

    yield included
    for kind, entries in before.items():
        kind._entries = entries


def test_two_attacks_in_one_file_have_their_own_facts(include):
    include(TWO_ATTACKS)
    x, y = image([0.6, 0.0], [0.2, 0.0]), torch.tensor([0, 0])
    first, second = (registry.evaluations.get(f"{name}_l2") for name in ("first", "second"))
    assert (first.chunk, second.chunk) == (7, 500)
    columns = first.function(MODEL, x, y, eps=[0.05])
    assert columns["first_l2_0.05_steps_used"].tolist() == [4, 0], "the second is wrong without an attack"
    assert columns["first_l2_0.05_gain"].tolist() == pytest.approx([0.5, math.nan], nan_ok=True)
    assert set(columns) == {p.replace("{eps}", "0.05") for p in first.columns}
    assert set(second.function(MODEL, x, y, eps=[0.05])) == {p.replace("{eps}", "0.05") for p in second.columns}
    assert first.columns["first_l2_{eps}_robust"].ranks == 3
    assert first.columns["first_l2_{eps}_gain"].params == {"norm": "l2", "attack": "first"}
    assert second.hyperparameters == {"eps": DEFAULT_EPS["l2"], "search": "fp32", "confirm": CONFIRM, "power": 2}
    assert "first_linf" in registry.evaluations
    assert "second_linf" not in registry.evaluations


def test_an_attack_that_does_not_return_what_it_declares_is_named(include):
    include(TWO_ATTACKS.replace("steps_used=torch", "steps=torch"))
    with pytest.raises(BenchError, match="first_l2: expected 'steps_used' in the attack's trace, got"):
        registry.evaluations.get("first_l2").function(MODEL, image([0.6, 0.0]), torch.tensor([0]), eps=[0.05])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind="count"', 'kind="text"', "attack first: expected extra columns of kind flag, count or value, got text"),
        ("seed=0, trace=None", "seed=0", "attack first: expected the argument `trace`"),
        ("def second(model", "def second(self, model", "second in .*: expected arguments"),
    ],
)
def test_a_bad_declaration_is_refused(include, old, new, message):
    with pytest.raises(UsageError, match=message):
        include(TWO_ATTACKS.replace(old, new))


def test_a_listener_hears_of_every_entry_once():
    heard = []
    own = registry.Registry("attack")
    own.add(registry.attacks.get("pgd"))
    own.subscribe(lambda entry: heard.append(entry.name))
    own.add(registry.attacks.get("fgsm"))
    assert heard == ["pgd", "fgsm"]


def test_an_unknown_peer_or_an_argument_that_a_peer_lacks_is_refused():
    evaluate = registry.evaluations.get("pgd_l2").function
    x, y = image([0.6, 0.0]), torch.tensor([0])
    with pytest.raises(UsageError, match=r"expected peer among .*cleverhans"):
        evaluate(MODEL, x, y, eps=[0.1], peer="cleverhens")
    with pytest.raises(UsageError, match="arguments that cleverhans has too, got restarts=3"):
        evaluate(MODEL, x, y, eps=[0.1], peer="cleverhans", restarts=3)
    columns = evaluate(MODEL, x, y, eps=[0.2], peer="cleverhans", losses=["ce", "margin"])  # a plan's own spelling
    assert columns["pgd_l2_cleverhans_0.2_robust"].tolist() == [False]
    assert set(columns) <= {p.replace("{eps}", "0.2") for p in registry.evaluations.get("pgd_l2").columns}


@pytest.mark.parametrize(
    ("name", "argument", "value", "expected"),
    [
        ("pgd_l2", "steps", 0, ">= 1"),
        ("pgd_linf", "restarts", 0, ">= 1"),
        ("pgd_l2", "rel_stepsize", 0.0, "> 0"),
        ("pgd_l2", "losses", ["cross-entropy"], "one of ce, margin"),
        ("apgd_l2", "rho", 1.0, "< 1"),
        ("apgd_l2", "eot_iter", 0, ">= 1"),
        ("apgd_linf", "loss", "hinge", "one of ce, dlr, targeted"),
        ("fab_l2", "n_target_classes", 0, ">= 1"),
        ("square_l2", "n_queries", -5, ">= 1"),
        ("square_l2", "p", 1.5, "<= 1"),
        ("autoattack_l2", "version", "plus", "one of standard, rand"),
        ("autoattack_raced_l2", "sample", 2.0, "<= 1"),
        ("noise_l2", "draws", 0, ">= 1"),
        ("stability", "draws", 0, ">= 1"),
        ("stability", "radius", [0.1, -0.1], "> 0"),
        ("curvature", "steps", 0, ">= 1"),
        ("bounds", "max_nodes", 1, ">= 3"),
    ],
)
def test_an_argument_out_of_its_range_is_refused_by_name(name, argument, value, expected):
    with pytest.raises(UsageError, match=f"mine.{argument}: expected .*{expected}"):
        parse_evaluation("mine", name, {argument: value}, (1, 8, 8))


def test_what_the_ranges_allow_is_taken():
    for name, arguments in {"pgd_l2": {"steps": 1, "rel_stepsize": 0.1}, "apgd_l2": {"loss": "dlr"}}.items():
        parsed = parse_evaluation("mine", name, arguments, (1, 8, 8))
        assert arguments.items() <= parsed.arguments.items()
