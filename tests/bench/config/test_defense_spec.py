"""Defense specs: what they mean, their one canonical form, and the one line that is said of each wrong one."""

from __future__ import annotations

import pytest

from bench.config.defense_spec import parse_defense_spec as parse
from bench.core.errors import UsageError
from bench.core.recipe import Recipe
from bench.core.registry import defenses


def test_values_have_the_type_of_the_default() -> None:
    spec = parse("lcnn:beta0=3,learn_beta=false,batch_size=64,milestones=0.5/0.75,backbone=resnet18-w16")
    assert spec.name == "lcnn"
    assert spec.hyperparameters == {"beta0": 3.0, "learn_beta": False}
    assert type(spec.hyperparameters["beta0"]) is float
    assert spec.recipe == Recipe(batch_size=64, milestones=(0.5, 0.75))
    assert spec.backbone == "resnet18-w16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lcnn", "lcnn"),
        (" lcnn : lambda_gamma = 1e-2 , beta0=5. ", "lcnn:beta0=5,lambda_gamma=0.01"),
        ("lcnn:learn_beta=NO", "lcnn:learn_beta=false"),
        ("lcnn:lambda_beta=0.0010000001", "lcnn:lambda_beta=0.0010000001"),
        ("standard:milestones=.50/0.750", "standard:milestones=0.5/0.75"),
        ("adversarial_training:step_size=none", "adversarial_training:step_size=none"),
        ("adversarial_training:step_size=0.1,released=1", "adversarial_training:released=true,step_size=0.1"),
        ("cure:variant=reference", "cure:variant=reference"),
        ("lcnn:backbone=convnet-w16", "lcnn:backbone=convnet"),
        ("adversarial_training:eps=8/255", f"adversarial_training:eps={8 / 255}"),
        ("adversarial_training:eps=1", "adversarial_training:eps=1"),
        ("lcnn:backbone=resnet18-w064", "lcnn:backbone=resnet18"),
        ("lcnn:backbone=convnet-w08", "lcnn:backbone=convnet-w8"),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert str(parse(text)) == expected
    assert str(parse(expected)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lcnn:", "defense 'lcnn:': expected NAME:key=value,key=value, got ''"),
        ("lcnn:beta0", "lcnn:beta0: expected NAME:key=value,key=value, got 'beta0'"),
        ("lcnn:beta0=", "lcnn:beta0: expected NAME:key=value,key=value, got 'beta0='"),
        ("lcnn:beta0=1,beta0=2", "lcnn:beta0: expected each key once, got it twice"),
        ("lcnn:beta0=big", "lcnn:beta0: expected a finite number > 0, got 'big'. Change the value."),
        ("lcnn:beta0=nan", "lcnn:beta0: expected a finite number > 0, got nan"),
        ("lcnn:learn_beta=maybe", "lcnn:learn_beta: expected true or false, got 'maybe'"),
        ("adversarial_training:steps=2.5", "adversarial_training:steps: expected a whole number >= 1, got '2.5'"),
        ("lcnn:epochs=none", "lcnn:epochs: expected a whole number >= 1, got 'none'"),
        ("lcnn:epochs=0", "lcnn:epochs: expected a whole number >= 1, got 0"),
        ("lcnn:momentum=1", "lcnn:momentum: expected a finite number >= 0 and < 1, got 1.0. Change the value."),
        ("lcnn:batch_sise=3", "lcnn: expected one of its settings, got 'batch_sise'. Did you mean 'batch_size'?"),
        ("lcnn:backbone=resnet", "lcnn:backbone: expected a backbone or NAME-wWIDTH, got 'resnet'."),
        (
            "adversarial_training:steps=-3",
            "adversarial_training:steps: expected a whole number >= 1, got -3. C",
        ),
        ("adversarial_training:eps=-0.5", "adversarial_training:eps: expected a finite number >= 0, got -0.5."),
        ("adversarial_training:eps=1/0", "adversarial_training:eps: expected a finite number >= 0, got '1/0'."),
        ("adversarial_training:step_size=0", "adversarial_training:step_size: expected a finite number > 0, got 0"),
        ("lcnn:lambda_beta=-1", "lcnn:lambda_beta: expected a finite number >= 0, got -1.0. Change the value."),
        (
            "lcnn_gradreg:lambda_gradient=-1",
            "lcnn_gradreg:lambda_gradient: expected a finite number >= 0, got -1",
        ),
        ("gradreg:lambda_gradient=inf", "gradreg:lambda_gradient: expected a finite number >= 0, got inf."),
        ("cure:h=0", "cure:h: expected a finite number > 0, got 0.0."),
        ("cure:lambda_curvature=-4", "cure:lambda_curvature: expected a finite number >= 0, got -4.0."),
        ("softplus_wd:beta=-1", "softplus_wd:beta: expected a finite number > 0, got -1.0."),
        (
            f"adversarial_training:steps={10**26}",
            "adversarial_training:steps: expected a whole number >= 1 below",
        ),
        ("lcnn:lr=nan", "lcnn:lr: expected a finite number > 0, got nan."),
        ("cure:variant=referense", "cure:variant: expected one of table1, reference, got 'referense'."),
        ("", "defense: expected a registered defense, got ''"),
        ("LCNN", "defense: expected a registered defense, got 'LCNN'."),
    ],
)
def test_complaints(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_every_shipped_default_can_be_spelled_out() -> None:
    for entry in defenses:
        for name, default in entry.hyperparameters.items():
            text = "none" if default is None else str(default)
            parsed = parse(f"{entry.name}:{name}={text}")
            assert parsed.hyperparameters[name] == default, (entry.name, name)
