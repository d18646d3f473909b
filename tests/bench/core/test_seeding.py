"""Seeding: every generator, the same draws as the libraries' own calls give."""

from __future__ import annotations

import random

import numpy as np
import torch

from bench.core.seeding import preserved_generators, seed_everything

SEED = 2**40 + 7  # more than numpy takes


def test_every_generator_draws_what_its_own_seeding_gives():
    with preserved_generators():
        seed_everything(SEED)
        ours = random.random(), np.random.rand(), torch.rand(3).tolist(), torch.initial_seed()
        random.seed(SEED)
        np.random.seed(SEED % 2**32)
        torch.manual_seed(SEED)
        assert ours == (random.random(), np.random.rand(), torch.rand(3).tolist(), torch.initial_seed())


def test_generators_are_put_back():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with preserved_generators():
        seed_everything(SEED)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
