"""`bench.benchmark`: RobustBench's call (Croce et al. 2021), on our AutoAttack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bench.api.tables import evaluate
from bench.core.arguments import Number, real, whole
from bench.core.errors import UsageError
from bench.core.records import ThreatModel
from bench.data import catalog
from bench.reports.exports.model_info import write_model_info

# RobustBench's names of the threats, with its radii.
THREATS = {"L2": ThreatModel("l2", 0.5), "Linf": ThreatModel("linf", 8 / 255)}


def benchmark(  # noqa: PLR0917 - RobustBench's signature
    model: nn.Module,
    n_examples: int = 10_000,
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str | Path | None = "./data",
    device: str | torch.device | None = None,
    batch_size: int = 32,
    eps: Number | None = None,
) -> tuple[float, float]:
    """Return clean and AutoAttack accuracy as fractions, in RobustBench's signature.

    Args:
        model: float32 (B, C, H, W) in [0, 1] → logits (B, K).
        n_examples: first N test images.
        dataset: "cifar10", "cifar100", "svhn" or "digits".
        threat_model: "L2" or "Linf".
        to_disk: write the result to `model_info/<dataset>/<threat_model>/<model_name>.json`, RobustBench's keys.
        model_name: needed with `to_disk`.
        data_dir: where the data set is looked for first; ignored if there is no such folder.
        device: where; None: where the model's parameters are.
        batch_size: images per call.
        eps: budget on [0, 1] pixels, also "8/255"; None: RobustBench's 0.5 (L2) or 8/255 (Linf).

    Returns:
        Clean accuracy and robust accuracy, in [0, 1].

    Raises:
        UsageError: unknown data set or threat model, an argument out of range, or `to_disk` without a name.
    """
    n_examples = whole("benchmark: n_examples", n_examples, 1)
    threat_model = str(getattr(threat_model, "value", threat_model))  # RobustBench has an enumeration
    if threat_model not in THREATS:
        raise UsageError(f"benchmark: expected threat_model L2 or Linf, got {threat_model!r}. Choose one of them.")
    if to_disk and not model_name:
        raise UsageError("benchmark: expected model_name with to_disk=True, got none. Name the model.")
    threat = THREATS[threat_model]
    if eps is not None:
        threat = replace(threat, eps=real("benchmark: eps", eps))
    folder = Path(data_dir) if data_dir is not None and Path(data_dir).is_dir() else None
    loaded = catalog.load(dataset, data_dir=folder, limit=n_examples, need_train=False)
    table = evaluate(
        model,
        data=(loaded.test.images, loaded.test.labels),
        evaluations=["accuracy", f"autoattack_{threat.norm}"],
        eps=threat.eps,
        device=device,
        batch_size=batch_size,
    )
    clean = float(table["clean_correct"].mean())
    robust = float(table[f"autoattack_{threat.norm}_{threat.eps:g}_robust"].mean())
    if to_disk:
        write_model_info(Path("model_info"), loaded.name, threat_model, str(model_name), clean, robust, threat.eps)
    return clean, robust
