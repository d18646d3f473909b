"""A registered evaluation's table on a few images, with settings that cost little."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import nn

from bench.core import registry
from bench.data.split import Split
from bench.measuring.runner import evaluate_chunks

# Cheap settings of costly arguments; an evaluation that has such an argument is run with it.
CHEAP = {"steps": 10, "n_queries": 30, "draws": 2, "eps": [0.3], "radius": [0.01], "radii": [0.01], "iterations": 6}
CPU = torch.device("cpu")


def table(name: str, model: nn.Module, split: Split, device: torch.device = CPU, **options: Any) -> pd.DataFrame:
    entry = registry.evaluations.get(name)
    defaults = {k: v for k, v in entry.hyperparameters.items() if v is not ...}
    arguments = defaults | {k: v for k, v in CHEAP.items() if k in defaults}
    chunks = evaluate_chunks(entry, model, split, device, arguments=arguments, seed=0, **options)
    return pd.concat([chunk.table for chunk in chunks], ignore_index=True)
