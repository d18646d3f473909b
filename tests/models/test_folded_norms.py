"""Norms folded into convolutions for the attacks of adversarial training: the same function and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.core.registry import defenses
from bench.models.backbones.blocks import ConvNorm, folded_norms


@pytest.mark.parametrize("name", ["standard", "lcnn", "vanilla"])
def test_a_folded_network_is_the_same_function(name):
    torch.manual_seed(0)
    model = defenses.get(name).function(10, (3, 16, 16), "resnet18-w4").double()
    x = torch.rand(6, 3, 16, 16).double().requires_grad_()
    model.train()(x)  # running statistics of its own
    model.eval()
    seen: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, *_: seen.append(m))
    plain = model(x)
    assert len(seen) == 20
    with folded_norms(model):
        folded = model(x)
    assert len(seen) == (40 if name == "vanilla" else 20), "an affine norm is not folded"
    found = [(logits, torch.autograd.grad(logits.square().sum(), x)[0]) for logits in (plain, folded)]
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-12)


def test_training_mode_and_what_follows_the_block_are_left_alone():
    model = defenses.get("standard").function(10, (3, 8, 8), "convnet-w4").train()
    x, parts = torch.rand(4, 3, 8, 8), [m for m in model.modules() if isinstance(m, ConvNorm)]
    before = parts[0][1].running_mean.clone()
    with folded_norms(model):
        model(x)
        assert all(p.folded for p in parts)
    assert not torch.equal(parts[0][1].running_mean, before), "statistics were updated as ever"
    assert not any(p.folded for p in parts)
