"""All figures of the page, in its order. A new figure is a file here and a line in this list."""

from __future__ import annotations

from collections.abc import Callable

from bench.reports.board.model import Board
from bench.reports.figures import plot_data
from bench.reports.figures.accuracy_curve import accuracy_against_eps
from bench.reports.figures.cost_against_robustness import cost_against_robustness
from bench.reports.figures.curvature_against_gradient import curvature_against_gradient
from bench.reports.figures.decision_boundary import decision_boundaries
from bench.reports.figures.flatness_against_robustness import flatness_against_robustness
from bench.reports.figures.gradient_stability import gradient_stability
from bench.reports.figures.rank_correlation import rank_correlation
from bench.reports.figures.sheet import Figure, style
from bench.reports.figures.training_curves import training


def draw(board: Board, tables: plot_data.Tables) -> list[Figure]:
    """Return every figure that the board's columns allow, in the page's order."""
    drawings: tuple[Callable[[Board, plot_data.Tables], Figure | None], ...] = (
        decision_boundaries, accuracy_against_eps, cost_against_robustness, gradient_stability,
        curvature_against_gradient, flatness_against_robustness, rank_correlation, training,
    )  # fmt: skip
    with style():
        return [figure for drawing in drawings if (figure := drawing(board, tables)) is not None]
