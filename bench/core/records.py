"""The known facts as frozen records: what a recipe, a column, a defense, an attack and an evaluation are.

Standard library only: every other module may import this one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

LossFunction = Callable[..., "dict[str, Any]"]
Precision = Literal["auto", "fp32", "tf32", "bf16"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained. `None` means "what the suite says", so that all defenses share one recipe.

    A defense sets only what it must differ in (usually `loss`); the suite fills in the rest; the command
    line overrides both. The paper's numbers are `PAPER`.

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
    schedule: Literal["step", "onecycle"] | None = None
    milestones: tuple[float, ...] | None = None
    decay: float | None = None
    augment: Literal["none", "crop_flip", "crop"] | None = None
    crop_padding: int | None = None
    precision: Precision | None = None

    def over(self, base: Recipe) -> Recipe:
        """Return `base` with every field that is set here replaced by ours."""
        return Recipe(**{f.name: b if (a := getattr(self, f.name)) is None else a
                         for f in fields(self) for b in [getattr(base, f.name)]})  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """Return the fields as plain data (the loss, a function, is left out): part of a cell's key."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items() if k != "loss"}


# Srinivas et al. 2022, section 5 (schedule, weight decay) and the authors' code (batch size, augmentation).
PAPER = Recipe(
    epochs=200, batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="step",
    milestones=(0.75, 0.875), decay=0.1, augment="crop_flip", crop_padding=4, precision="fp32",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """One per-example column of an evaluation, and the number of the board that it feeds, if any.

    Attributes:
        description: one sentence, for the glossary and the tooltip.
        unit: "" for a pure number.
        kind: "flag" is boolean; "value" a float (NaN = missing); "count" an integer; "text" a string.
        board: the board's column, with the same {placeholders}; None: not on the board.
        aggregate: how the board's number is made: "fraction" (of a flag, with a Wilson interval), "mean", "sum".
        direction: which way is better for the defense.
        formula: the formula in plain text.
        source: paper and section.
    """

    description: str
    unit: str = ""
    kind: Literal["flag", "value", "count", "text"] = "value"
    board: str | None = None
    aggregate: Literal["fraction", "mean", "sum"] = "mean"
    direction: Literal["higher", "lower", "none"] = "none"
    formula: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Adaptive:
    """An attack that a defense's author declares against the own defense; run beside the standard ones.

    Attributes:
        surrogate: `surrogate(model) -> nn.Module`, a differentiable stand-in whose gradients are used (BPDA).
        eot: draws averaged per gradient of a randomised model (1 = deterministic).
        loss: `loss(logits (B, K), y (B,)) -> (B,)`, which the attack maximises.
    """

    surrogate: Callable[[Any], Any] | None = None
    eot: int = 1
    loss: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """What defense, attack and evaluation have in common.

    Attributes:
        name: the function's name, the key of the registry.
        function: the function as written, unchanged.
        source: paper and place.
        version: raised by hand when the meaning changes; part of every cell's key.
    """

    name: str
    function: Callable[..., Any]
    source: str
    version: int

    @property
    def description(self) -> str:
        """The docstring, cleaned."""
        return inspect.getdoc(self.function) or ""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword-only arguments and their defaults (`...` stands for a required one)."""
        parameters = inspect.signature(self.function).parameters.values()
        return {
            p.name: ... if p.default is p.empty else p.default
            for p in parameters
            if p.kind is p.KEYWORD_ONLY and p.name not in RESERVED
        }


# Arguments which the pipeline fills in; they are no hyper-parameters.
RESERVED = frozenset({"seed", "norm", "trace"})


@dataclass(frozen=True, slots=True)
class Defense(Registered):
    """A registered defense: `function(num_classes, in_shape, backbone, *, <hyper-parameters>) -> nn.Module`."""

    recipe: Recipe = Recipe()
    adaptive: Adaptive | None = None
    bibtex: str = ""


@dataclass(frozen=True, slots=True)
class Attack(Registered):
    """A registered attack: `function(model, x, y, *, eps, norm, seed, …) -> x_adv (B, C, H, W)`."""

    norms: tuple[str, ...] = ("l2", "linf")


@dataclass(frozen=True, slots=True)
class Evaluation(Registered):
    """A registered evaluation: `function(model, x, y, *, seed, …) -> {column: (B,) tensor, array or list}`.

    Attributes:
        columns: pattern of the column's name (`{eps}`, `{radius}` stand for a number in `:g` format) to Column.
        chunk: images per chunk, the unit that is stored and resumed; fixed, so that results do not depend on it.
        summary: `summary(model, device) -> dict` of plain data about the model as a whole, kept in the cell's info.
    """

    columns: Mapping[str, Column] = field(default_factory=dict)
    chunk: int = 500
    summary: Callable[[Any, Any], dict[str, Any]] | None = None
