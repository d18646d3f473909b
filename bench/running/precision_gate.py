"""Whether a training in a fast precision goes as one in full precision does: both are tried for a while before it.

"auto" chooses bfloat16 or TF32 for its speed alone. Before such a training the same network is trained twice, briefly,
from the same seed on the same batches: in full precision and in the fast one. Where loss, accuracy or curvature differ
by more than their bounds, the training is refused; what was measured is stored with it and stands on the page.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, replace
from typing import Final

import torch

from bench.core.errors import BenchError
from bench.core.recipe import Precision
from bench.core.torch_state import full_precision, known_state
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.evaluations.curvature import curvature
from bench.training.epoch import EpochRecord
from bench.training.loop import TrainJob, train

STEPS_PER_EPOCH: Final = 50
EPOCHS: Final = 2
CURVATURE_IMAGES: Final = 64
# Three times the largest difference between two fp32 trainings of one seed, which rounding alone drives apart: 0.9 % of
# the loss, 2.9 points of accuracy, 35 % of curvature (docs/measured.md, "On a GPU").
LOSS_BOUND: Final = 0.03  # relative, of the last epoch's mean loss
ACCURACY_BOUND: Final = 0.09  # of the last epoch's images
CURVATURE_BOUND: Final = 1.0  # by how much the larger median over images exceeds the smaller one, relative to it


@dataclass(frozen=True, slots=True)
class Trial:
    """What a short training came to.

    Attributes:
        precision: of its steps.
        loss: mean of the last epoch.
        accuracy: share of the last epoch's images that were right in their step; None: unknown.
        curvature: median of ‖∇²f‖₂/‖∇f‖₂ over some training images after it, measured in float32; None: none found.
    """

    precision: str
    loss: float
    accuracy: float | None
    curvature: float | None

    def differences(self, other: Trial) -> dict[str, tuple[float, float]]:
        """Return how far another training is from this one, and the bound, by the name of the number."""
        found = {"loss": (abs(other.loss / self.loss - 1), LOSS_BOUND)}
        if self.accuracy is not None and other.accuracy is not None:
            found["accuracy"] = abs(other.accuracy - self.accuracy), ACCURACY_BOUND
        if self.curvature and other.curvature:
            ratio = other.curvature / self.curvature
            found["curvature"] = max(ratio, 1 / ratio) - 1, CURVATURE_BOUND
        return found


def check_precision(job: TrainJob, device: torch.device) -> dict[str, object]:
    """Train briefly in full precision and in the job's, and return both results as plain data.

    Args:
        job: the training that is to come; it is not begun.
        device: where.

    Returns:
        `{"images", "full": …, "fast": …, "differences": {name: [difference, bound]}}`.

    Raises:
        BenchError: they differ by more than a bound, or one of them is not finite.
    """
    full, fast = (short_training(job, device, precision) for precision in ("fp32", job.recipe.precision))
    differences = full.differences(fast)
    if far := {k: v for k, v in differences.items() if not v[0] <= v[1]}:
        words = ", ".join(f"{k} off by {100 * by:.3g} % (at most {100 * bound:g} %)" for k, (by, bound) in far.items())
        raise BenchError(
            f"training {job.defense.name} seed {job.seed}: expected {job.recipe.precision} to train as fp32 does for "
            f"{EPOCHS} short epochs, got {words}. Use --precision fp32."
        )
    return {
        "images": EPOCHS * len(_images(job)),
        "full": asdict(full),
        "fast": asdict(fast),
        "differences": {k: list(v) for k, v in differences.items()},
    }


def short_training(job: TrainJob, device: torch.device, precision: Precision) -> Trial:
    """Train a job's network for two short epochs in a precision.

    Args:
        job: the training that is to come.
        device: where.
        precision: of the steps.

    Returns:
        What it came to.
    """
    train_split = _images(job)
    recipe = replace(job.recipe, precision=precision, epochs=EPOCHS, schedule="onecycle")
    records: list[EpochRecord] = []
    model = train(replace(job, recipe=recipe, train=train_split, holdout=None), device, on_epoch=records.append)
    images = train_split.first(CURVATURE_IMAGES)
    x, y = to_unit(torch.tensor(images.images)).to(device), torch.tensor(images.labels).to(device)
    with known_state(), full_precision(device):
        values = curvature(model, x, y, terms=False)["curvature"]
    finite = [v for v in values.tolist() if v == v]
    last = records[-1]
    return Trial(precision, last.loss, last.train_accuracy, statistics.median(finite) if finite else None)


def _images(job: TrainJob) -> Split:
    """Return the images of an epoch of a short training."""
    return job.train.first(STEPS_PER_EPOCH * job.recipe.batch_size)
