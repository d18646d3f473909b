"""From the store to the board: join per-example tables, aggregate, rank. Every number of every report is made here.

Board columns derive from the columns that the plan's evaluations declare, with what is stored of each beside its
numbers; no evaluation is known by name. Missing is missing: NaN is left out of means and counted as null, never taken
for 0.
"""

from __future__ import annotations

from dataclasses import replace

from bench.core.ticks import tick
from bench.reports import formatting
from bench.reports.board.audits import audit_badges
from bench.reports.board.bracket_columns import bracket_columns
from bench.reports.board.brackets import budgets, with_brackets, with_proofs
from bench.reports.board.challenges import apply_challenges
from bench.reports.board.columns import BoardColumn, in_order, ranking_column
from bench.reports.board.contested import contested
from bench.reports.board.join import joined_examples
from bench.reports.board.model import Board
from bench.reports.board.plan import board_stem
from bench.reports.board.ranking import rank_rows
from bench.reports.board.rows import board_row, with_cost
from bench.reports.board.run_tables import Prefixes, RunTables, Shared, distinct_prefixes, facts_of, load
from bench.reports.board.stored_images import stored_images
from bench.reports.board.trust import assess_runs
from bench.reports.claims import verdicts
from bench.store.audit_record import load_audits
from bench.store.board_plan import BoardPlan
from bench.store.challenge_record import load_challenges
from bench.store.plan_record import PlanRecord
from bench.store.store import Store


def build(store: Store, shown: BoardPlan | None = None) -> Board:
    """Return the board of a folder, by default the last command's rows and what stands beside them.

    Args:
        store: an open store.
        shown: as `Store.plans.board` returns it.

    Raises:
        StoreError: no plan, or tables of one plan that disagree about an image's label.
        IntegrityError: a stored chunk does not match its SHA-256, a challenge or an audit is damaged.
    """
    shown = shown or store.plans.board()
    plan = shown.plan
    shared = Shared()
    loaded = [_read(store, plan, place, shared) for place in range(len(plan.rows))]
    runs, challenges = apply_challenges(plan, loaded, load_challenges(store.out))
    prefixes = distinct_prefixes(plan, runs)
    runs = [run.renamed(prefixes) for run in runs]
    columns, threat = measured_columns(plan, runs, prefixes), plan.suite.threat
    runs = with_proofs(runs, columns, threat)
    columns = measured_columns(plan, runs, prefixes)
    ranking, proved = ranking_column(columns, threat), budgets(columns, threat)
    groups: dict[str, list[RunTables]] = {}
    for run in runs:
        groups.setdefault(run.defense, []).append(run)
    reports = assess_runs(plan, runs)
    rows = with_cost([board_row(name, group, columns, ranking, threat, reports) for name, group in groups.items()])
    rows, pairs, gap = rank_rows(rows, groups, ranking)
    rows = with_brackets(rows, groups, proved)
    apart = contested(groups, [row.defense for row in rows if row.rank is not None], ranking, plan.data.shape)
    badges = audit_badges(load_audits(store.out).audits, groups, ranking)
    rows = [replace(row, audit=badges.get(row.defense)) for row in rows]
    facts = {key: facts_of(runs, key) for key in plan.evaluations}
    board = Board(
        plan=plan,
        rows=tuple(rows),
        columns=in_order(
            columns,
            trust=any(row.trust is not None for row in rows),
            randomised=any(row.apart is not None for row in rows),
            brackets=[c for one in proved for c in bracket_columns(one.threat, shown=one.threat == threat)],
        ),
        examples=joined_examples(plan, runs, "test"),
        ranking=ranking.name if ranking else "",
        resolvable=gap,
        logs={(run.defense, run.seed): run.log for run in runs if run.log},
        train_examples=joined_examples(plan, runs, "train"),
        pairs=tuple(pairs),
        challenges=challenges,
        adversarial=stored_images(store, groups, ranking, threat, apart),
        contested=apart,
        facts={name: column for found in facts.values() for name, column in found.items()},
        origins={name: key for key, found in facts.items() for name in found},
        shown=shown,
    )
    return replace(board, claims=verdicts.check(board))


def _read(store: Store, plan: PlanRecord, place: int, shared: Shared) -> RunTables:
    tick("reading models", place + 1, len(plan.rows))
    return load(store, plan, plan.rows[place], shared)


def measured_columns(plan: PlanRecord, runs: list[RunTables], prefixes: Prefixes) -> list[BoardColumn]:
    """Return the measured columns: fractions before other numbers, otherwise in the plan's order.

    Args:
        plan: as `Store.plans.latest` returns it.
        runs: its runs, with distinct names.
        prefixes: what was put before the names: evaluation to name to prefix.
    """
    found: dict[str, tuple[tuple[bool, int, int, float], BoardColumn]] = {}
    for place, (key, planned) in enumerate(plan.evaluations.items()):
        patterns = list(planned.columns)
        before = {prefix + name: prefix for name, prefix in prefixes[key].items()}
        for name, column in facts_of(runs, key).items():
            if column.board is None:
                continue
            order = patterns.index(column.pattern) if column.pattern in patterns else len(patterns)
            fraction = column.aggregate == "fraction" or column.unit == "share"
            made = BoardColumn(
                name=column.board,
                facts=column,
                evaluation=key,
                example_column=name,
                split=planned.split,
                heading=column.heading or formatting.label(before[name] + board_stem(plan, key, column)),
                form="fraction" if fraction else "value",
                images=max(len(run.tables[key].index) for run in runs if key in run.tables),
            )
            found.setdefault(made.name, ((not fraction, place, order, made.level or 0.0), made))
    return [column for _, column in sorted(found.values(), key=lambda pair: pair[0])]
