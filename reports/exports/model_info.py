"""RobustBench's model_info file of one model that was evaluated in memory."""

from __future__ import annotations

from pathlib import Path

from bench.core import files
from bench.reports.exports import robustbench
from bench.reports.exports.json import dump


def write_model_info(
    folder: Path, dataset: str, threat_model: str, name: str, clean: float, robust: float | None, eps: float
) -> Path:
    """Write `<folder>/<dataset>/<threat model>/<name>.json` with RobustBench's keys and return its path.

    Args:
        folder: where `model_info` is.
        dataset: name of the data, e.g. "cifar10" or "cifar10-jpeg".
        threat_model: "L2" or "Linf".
        name: the model's name; made safe for a file.
        clean: clean accuracy in [0, 1].
        robust: AutoAttack's robust accuracy in [0, 1]; None: not measured, null in the file.
        eps: the budget on [0, 1] pixels; multiples of 1/255 are written as such.

    Returns:
        The path of the file.
    """
    path = folder / robustbench.place(dataset, threat_model, name)
    files.write_text(path, dump(robustbench.model_info(dataset, name, clean, robust, eps)))
    return path
