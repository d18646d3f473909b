"""How a model is trained: what one party says of it, and what comes of all of them.

Standard library only: every other module may import this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

LossFunction = Callable[..., Mapping[str, Any]]
Precision = Literal["auto", "fp32", "tf32", "bf16"]
Schedule = Literal["step", "onecycle"]
Augmentation = Literal["none", "crop_flip", "crop"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What one party says about training: a defense, a defense spec, the command line. `None` leaves a field open.

    A defense sets only what it must differ in (usually `loss`); the suite fills in the rest, so that all defenses
    train alike; the command line overrides both. What comes of them is a `TrainingRecipe`.

    Attributes:
        loss: pure function `loss(model, x (B, C, H, W), y (B,), *, <hyper-parameters>) -> dict` of scalar
            terms, which are summed. None: mean cross-entropy.
        epochs: passes over the training set.
        batch_size: images per step.
        lr: peak learning rate of SGD.
        momentum: SGD momentum (no Nesterov).
        weight_decay: l2 penalty on every parameter that its layer does not exempt (`no_weight_decay`).
        schedule: "step" divides by 1/`decay` at each milestone; "onecycle" is linear up, then linear to 0.
        milestones: fractions of the epochs at which "step" decays.
        decay: factor of one decay.
        augment: "crop_flip" is a random crop after padding `crop_padding` zeros, and a horizontal flip.
        crop_padding: pixels of zero padding for the crop.
        precision: "fp32", "tf32" or "bf16" for the training step on a GPU, or "auto": bf16 where the GPU has it,
            else fp32. A CPU always trains in fp32, and evaluation is always judged in fp32.
    """

    loss: LossFunction | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Schedule | None = None
    milestones: tuple[float, ...] | None = None
    decay: float | None = None
    augment: Augmentation | None = None
    crop_padding: int | None = None
    precision: Precision | None = None

    def given(self) -> Mapping[str, Any]:
        """Return the fields that are set, as they are."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def with_overrides(self, *overrides: Recipe) -> Recipe:
        """Return the recipe with every field that an override sets; later overrides win."""
        return replace(self, **{k: v for override in overrides for k, v in override.given().items()})

    def settings(self) -> dict[str, object]:
        """Return the fields that are set as plain data; the loss, a function, is left out."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.given().items() if k != "loss"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """How a model is trained: every field of `Recipe`, decided. Only `loss` may be None, mean cross-entropy."""

    loss: LossFunction | None = None
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    milestones: tuple[float, ...]
    decay: float
    augment: Augmentation
    crop_padding: int
    precision: Precision

    def with_overrides(self, *overrides: Recipe) -> TrainingRecipe:
        """Return the recipe with every field that an override sets; later overrides win."""
        return replace(self, **{k: v for override in overrides for k, v in override.given().items()})

    def settings(self) -> dict[str, object]:
        """Return the fields as plain data (the loss, a function, is left out): part of a cell's key."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if k != "loss"}


# Srinivas et al. 2022, section 5 (schedule, weight decay) and the authors' code (batch size, augmentation).
PAPER = TrainingRecipe(
    epochs=200,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="step",
    milestones=(0.75, 0.875),
    decay=0.1,
    augment="crop_flip",
    crop_padding=4,
    precision="fp32",
)
