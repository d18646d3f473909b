"""What the judge makes of attacks with one thing wrong. The table fault × test is the museum's (tests/trust)."""

from functools import partial

import pytest
from torch.nn import functional as F

from bench.measuring.attack_columns import robust_columns
from tests.attacks.known import flags
from tests.attacks.test_closed_form import exact_distance, problem
from tests.trust.museum.broken_attacks import plain_pgd


@pytest.mark.parametrize("fault", ["no projection", "no box"])
def test_the_judge_gives_no_credit_for_leaving_the_rules(fault):
    model, x, y = problem(4, 30, box=fault == "no box")
    exact = exact_distance(model, x, y, "l2", box=fault == "no box")
    eps = float(exact.quantile(0.2))
    columns = robust_columns(
        model,
        x,
        y,
        attack=partial(plain_pgd, fault=fault),
        prefix="a",
        eps=[eps],
        norm="l2",
        seed=0,
        arguments={"steps": 3},
    )
    assert columns[f"a_{eps:g}_robust"][exact > 1.001 * eps].all()
    if fault == "no projection":
        assert columns[f"a_{eps:g}_refused"].any()


def test_the_check_against_other_libraries_sees_batch_wide_normalisation(nets, digits):
    """The fault that passed every sanity check but this one when it happened for real."""
    from bench.attacks.peers import foolbox

    _, _, x, y = digits
    x, y, model = x[:60], y[:60], nets["robust"]
    theirs = flags(model, foolbox.pgd(model, x, y, eps=0.6, steps=10, random_start=False), y)
    assert (flags(model, plain_pgd(model, x, y, eps=0.6, steps=10), y) != theirs).sum() <= 1
    batch_wide = flags(model, partial(plain_pgd, fault="normalised over the batch")(model, x, y, eps=0.6, steps=10), y)
    assert (batch_wide != theirs).sum() > 5
    assert F.cross_entropy(model(x), y) < 1, "the net is trained"
