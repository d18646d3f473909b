"""A registered evaluation's table on a few images, with settings that cost little."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import nn

from bench.contracts.evaluation import CHEAP
from bench.core import registry
from bench.data.split import Split
from bench.measuring.runner import evaluate_chunks

CPU = torch.device("cpu")


def table(name: str, model: nn.Module, split: Split, device: torch.device = CPU, **options: Any) -> pd.DataFrame:
    entry = registry.evaluations.get(name)
    defaults = {k: v for k, v in entry.hyperparameters.items() if v is not ...}
    arguments = defaults | {k: v for k, v in CHEAP.items() if k in defaults}
    chunks = evaluate_chunks(entry, model, split, device, arguments=arguments, seed=0, **options)
    return pd.concat([chunk.table for chunk in chunks], ignore_index=True)
