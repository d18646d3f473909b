"""CURE's direction, its step lengths over the epochs, and which passes touch batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.core.registry import defenses
from bench.models.defenses import cure
from bench.training.hooks import set_epoch
from bench.training.losses import bound_loss


def test_direction_is_the_sign_of_length_one():
    g = torch.tensor([[3.0, -1e-9, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    z = cure.direction(g.requires_grad_())
    assert not z.requires_grad
    torch.testing.assert_close(z.flatten(1)[0], torch.tensor([1.0, -1.0, 0.0, 1.0]) / 3**0.5)
    assert torch.equal(z[1], torch.zeros(1, 2, 2))  # no gradient, no direction, nothing to compare


def test_lengths_follow_the_epochs_and_then_stay():
    entry = defenses.get("cure")
    model = entry.function(3, (1, 4, 4), "convnet-w2", variant="reference")
    lengths = []
    for epoch in range(7):
        set_epoch(model, epoch)
        lengths.append(model.step_length.h)
    assert lengths == [0.1, 0.4, 0.8, 1.8, 3.0, 3.0, 3.0]
    for settings in ({}, {"variant": "reference", "h": 1.0}):
        model = entry.function(3, (1, 4, 4), "convnet-w2", **settings)
        set_epoch(model, 0)
        assert model.step_length.h == 1.0
    assert "step_length" not in " ".join(model.state_dict())


def test_no_difference_has_gradient_zero_not_nan():
    model = defenses.get("cure").function(2, (1, 2, 2), "mlp-w2", variant="reference")
    with torch.no_grad():
        for parameter in model.features.parameters():
            parameter.zero_()
    loss = cure.loss(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]), variant="reference", lambda_curvature=4.0)
    assert loss["curvature"] == 0
    sum(loss.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(("variant", "passes"), [("table1", 2), ("reference", 1)])
def test_batch_norm_sees_the_passes_in_training_mode_only(variant, passes):
    entry = defenses.get("cure")
    model = entry.function(3, (1, 4, 4), "convnet-w2", variant=variant)
    loss = bound_loss(entry.recipe.loss, {**entry.hyperparameters, "variant": variant})
    loss(model.train(), torch.rand(8, 1, 4, 4), torch.arange(8) % 3)
    assert {m.num_batches_tracked.item() for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {passes}
    assert all(m.training for m in model.modules())
