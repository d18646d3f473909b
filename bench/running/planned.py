"""What a plan consists of: runs and planned evaluations, and what those read of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from bench.config.evaluation_config import EvaluationConfig
from bench.core.records import Column, Evaluation, Need, expand_columns
from bench.core.user_code import LoadedCode
from bench.data.split import Split
from bench.running.cells import Cell, Spec, evaluation_cell
from bench.training.loop import TrainJob


@dataclass(frozen=True)
class Run:
    """One model of the board: a defense with its overrides, and a seed.

    Attributes:
        defense: canonical defense spec, e.g. "lcnn:lambda_beta=0.01".
        job: all that its training needs.
        cell: the training's cell.
        defect: why its network cannot be built, found while planning; "" if nothing was.
        built: what its factory loaded and read while it was planned; None: it is ours, or did not come back.
        gated: whether the device chose a faster precision than fp32, which is tried first (`precision_gate`).
    """

    defense: str
    job: TrainJob
    cell: Cell
    defect: str = ""
    built: LoadedCode | None = None
    gated: bool = False

    @property
    def label(self) -> str:
        """How the run is named on the terminal."""
        return f"{self.defense} seed {self.job.seed}"

    @property
    def handed_over(self) -> bool:
        """Whether its weights were trained elsewhere, so that they are taken over."""
        return self.job.defense.handed_over is not None


@dataclass(frozen=True)
class Companion:
    """A run of an earlier command whose row stands on the board, read-only.

    Attributes:
        defense: canonical defense spec.
        seed: training seed.
        evaluations: key of an evaluation to the id of its cell, which is done and whose images are here.
    """

    defense: str
    seed: int
    evaluations: Mapping[str, str]

    @property
    def label(self) -> str:
        """How the run is named on the terminal."""
        return f"{self.defense} seed {self.seed}"


@dataclass(frozen=True)
class Input:
    """A need of an evaluation, found in the plan.

    Attributes:
        need: what is read, of which runs.
        evaluation: key of the planned evaluation that measures it.
        column: its name there.
        ranks: preference of the attack that it belongs to.
    """

    need: Need
    evaluation: str
    column: str
    ranks: int = 0


@dataclass(frozen=True)
class PlannedEvaluation:
    """One evaluation of the plan, on its own images.

    Attributes:
        entry: the suite's entry (key, arguments, limit, split, seed).
        evaluation: the registered evaluation.
        split: exactly the images it is computed on.
        spec: the part of its cells' keys that is the same for each run.
        keep_images: names of the image columns that are stored; None: all.
        index: the images' places in the data set; None: the first ones.
        inputs: what it reads of other cells.
    """

    entry: EvaluationConfig
    evaluation: Evaluation
    split: Split
    spec: Spec
    keep_images: frozenset[str] | None
    index: np.ndarray | None = None
    inputs: tuple[Input, ...] = ()

    def cell(self, run: Run, weights: str, inputs: Mapping[str, JsonValue] | None = None) -> Cell:
        """Return the cell of this evaluation for one run.

        Args:
            run: the run.
            weights: SHA-256 of its weights.
            inputs: the ids of the cells that it reads; None: it reads none.
        """
        spec = self.spec | ({"inputs": dict(inputs)} if inputs else {})
        return evaluation_cell(run.cell.spec, weights, spec, run.job.defense.adaptive)

    def suits(self, run: Run) -> bool:
        """Tell whether it can measure a run's model: of a randomised one some numbers do not exist."""
        return run.job.defense.track in self.evaluation.tracks

    def keeps(self, column: str) -> bool:
        """Tell whether an image column is to be stored."""
        return self.keep_images is None or column in self.keep_images

    @property
    def columns(self) -> dict[str, Column]:
        """The columns that it will have, as far as its arguments determine their names."""
        return expand_columns(self.evaluation.columns, self.entry.arguments)

    @property
    def reads_others(self) -> bool:
        """Whether it reads cells of other runs."""
        return any(i.need.of == "others" for i in self.inputs)
