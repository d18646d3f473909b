"""`bench.load_results` and `bench.load_model`: a result folder as tables, and its trained networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import nn

from bench.config.defense_spec import parse_defense_spec
from bench.core import discovery, registry
from bench.core.arguments import whole
from bench.core.errors import UsageError
from bench.core.torch_state import known_state
from bench.reports.board.build import build
from bench.reports.exports.leaderboard import leaderboard_frame
from bench.running.handed_over import recall
from bench.running.stored import load_run
from bench.store.plan_record import PlanRecord
from bench.store.store import Store


@dataclass(frozen=True)
class Results:
    """A result folder as tables.

    Attributes:
        leaderboard: one row per defense, the columns of leaderboard.csv.
        examples: one row per defense, seed and image, the columns of examples.parquet.
        logs: one row per defense, seed and epoch of training.
        plan: the last command's plan: suite, data, environment, evaluations, rows.
    """

    leaderboard: pd.DataFrame
    examples: pd.DataFrame
    logs: pd.DataFrame
    plan: PlanRecord


def load_results(out: str | Path) -> Results:
    """Load a finished or half-finished result folder, straight from its store.

    Args:
        out: the result folder.

    Returns:
        Its board, per-example table, training logs and last plan.

    Raises:
        MachineError: there is no store in that folder.
    """
    with Store.open(Path(out)) as store:
        board = build(store)
    logs = [
        {"defense": defense, "seed": seed, **{k: v for k, v in record.items() if k != "terms"}, **record["terms"]}
        for (defense, seed), records in board.logs.items()
        for record in records
    ]
    return Results(leaderboard_frame(board), board.examples, pd.DataFrame(logs), board.plan)


@known_state()
def load_model(
    name: str,
    *,
    dataset: str | None = None,
    seed: int = 0,
    out: str | Path = "results/digits",
    include: str | Path | None = None,
    allow_changed_sources: bool = False,
) -> nn.Module:
    """Return a trained model of a result folder, in eval mode, on the CPU: the function that was trained and measured.

    A defense of a file of yours must be registered, and a model that was handed over needs the file that builds its
    network: name the file with `include`, or import it first where its decorator registers the defense.

    Args:
        name: the defense spec, as on the board, e.g. "lcnn" or "lcnn:lambda_beta=0.01".
        dataset: checked against the folder's data set, if given.
        seed: the training seed.
        out: the result folder.
        include: the file that registers the defense or builds the network; it runs as code.
        allow_changed_sources: load it although the code of its defense was edited since; its logits on fixed images
            must still be those that were stored.

    Returns:
        The network, of images (B, C, H, W) in [0, 1] to logits (B, K).

    Raises:
        UsageError: no such row, or it is not trained yet, its defense is not registered, or the data set is another.
        IntegrityError: the defense's code has changed, the weights are not the ones that were stored, or the network
            gives other logits than the one that was trained.
    """
    seed = whole("load_model: seed", seed)
    if include is not None:
        discovery.include(include)
    with Store.open(Path(out)) as store:
        plan = store.plans.board().plan
        base = name.partition(":")[0].strip()
        recall(plan.rows, store, [base])
        if base in {r.base for r in plan.rows} and base not in registry.defenses:
            raise UsageError(f'load_model: expected the file of {base}, got none. Add include="FILE.py".')
        spec = parse_defense_spec(name)
        rows = [r for r in plan.rows if r.defense == str(spec) and r.seed == seed]
        record = store.cell(rows[0].train_cell) if rows else None
    if dataset is not None and dataset not in (plan.data.name, plan.suite.dataset):
        raise UsageError(f"load_model: expected data set {plan.data.name}, got {dataset!r}. Check out=.")
    if record is None or record.status != "done":
        there = sorted({r.label for r in plan.rows})
        raise UsageError(f"load_model: expected a trained row, got {spec} seed {seed}. Planned: {', '.join(there)}.")
    return load_run(plan, rows[0], record, Path(out), allow_changed_sources=allow_changed_sources)
