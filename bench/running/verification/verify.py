"""Verify a result folder or a pack: hashes, links, adversarial examples, challenges, and the board's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from bench.config.defense_spec import parse_defense_spec
from bench.core import discovery, registry
from bench.core.errors import BenchError, IntegrityError, MachineError, StoreError, UsageError, did_you_mean
from bench.core.records import expand_columns
from bench.core.user_code import Origin, origins_of
from bench.data.split import Split
from bench.measuring.judge import TOLERANCE
from bench.packs.opened import opened
from bench.running.apart import Apart
from bench.running.handed_over import recall
from bench.running.rescoring import rescore
from bench.running.stored import load_measured, load_test_images
from bench.running.verification.board import check_board
from bench.running.verification.examples import Example, attacks_of, check_examples
from bench.running.verification.findings import Verification, named
from bench.running.verification.links import check_images, check_links
from bench.running.verification.recomputed import ReaderContext, check_clean, check_readers, is_reader
from bench.store.challenge_record import challenge_paths, load_challenge_images
from bench.store.plan_record import PlanRecord, RunRecord
from bench.store.records import CellRecord
from bench.store.store import Store
from bench.store.weights import weights_path


@dataclass(frozen=True)
class VerifyOptions:
    """The options of `verify`, as parsed.

    Attributes:
        out: a result folder or a pack.
        defenses: rows whose examples are scored; empty: all.
        data_dir: where the data set is looked for first; nothing is downloaded.
        included: third-party files that register defenses or attacks.
    """

    out: Path
    defenses: tuple[str, ...] = ()
    data_dir: Path | None = None
    included: tuple[str, ...] = ()


def verify(options: VerifyOptions) -> Verification:
    """Compute again what a folder says.

    Args:
        options: of the command.

    Returns:
        What does not hold, what could not be checked, and how much was.

    Raises:
        UsageError: a row is unknown, or the code of third parties is needed and was not given.
        IntegrityError, SecurityError, StoreError: the pack or the store cannot be read at all.
    """
    for path in options.included:
        discovery.include(path)
    with opened(options.out) as results, Store.open(results.folder) as store:
        plan, found = store.plans.board().plan, Verification()
        recall(plan.rows, store, options.defenses)
        runs = _runs(plan, options.defenses)
        test = _test_images(plan, options.data_dir, found)
        changed = check_links(store, plan, found)
        trained_runs = [
            (run, trained)
            for run in runs
            if (trained := store.cell(run.train_cell)) is not None
            and trained.status == "done"
            and trained.info.get("weights") not in changed
        ]
        stayed = [] if options.defenses else _stayed(store.out, trained_runs)
        for run, trained in trained_runs:
            if run in stayed:
                _Checks(store, plan, test, found).without_weights(run)
            elif origins := _origins(plan, run):
                _check_apart(results.folder, run, origins, options.data_dir, found)
            else:
                _Checks(store, plan, test, found).run(run, trained)
        try:
            check_board(store, results.exports, found)
        except (IntegrityError, StoreError) as error:
            if not found.has(str(error)):
                found.fail("board", str(error))
        return found


def _stayed(out: Path, runs: list[tuple[RunRecord, CellRecord]]) -> list[RunRecord]:
    """Return the runs whose weights were left out of a pack; none where all were, which then proves nothing."""
    here = {run.label for run, trained in runs if weights_path(out, str(trained.info["weights"])).is_file()}
    away = [run for run, trained in runs if trained.left_out and run.label not in here]
    return away if len(away) < len(runs) else []


def _origins(plan: PlanRecord, run: RunRecord) -> tuple[Origin, ...]:
    """Return where the third parties' code comes from that checking a run calls."""
    defense = registry.defenses.get(run.base)
    planned = [plan.evaluations[key] for key in run.evaluations if key in plan.evaluations]
    readers = [registry.evaluations.get(one.evaluation).function for one in planned if is_reader(one)]
    return origins_of([defense.function, *readers])


def _check_apart(
    folder: Path, run: RunRecord, origins: tuple[Origin, ...], data_dir: Path | None, found: Verification
) -> None:
    """Check a run whose network is third parties' code, in a child process, which may end without an answer."""
    try:
        with Apart(f"verify {run.label}", origins) as apart:
            found.add(apart.call(check_run, folder, run.defense, run.seed, data_dir))
    except (StoreError, MachineError):
        raise
    except BenchError as error:
        found.fail(run.label, str(error))


def check_run(folder: Path, defense: str, seed: int, data_dir: Path | None) -> Verification:
    """Compute again what a folder says of one run: what `verify` calls in another process.

    Args:
        folder: the result folder.
        defense: of the run.
        seed: of its training.
        data_dir: where the data set is looked for first.

    Returns:
        What was found of this run alone.
    """
    found = Verification()
    with Store.open(folder) as store:
        plan = store.plans.board().plan
        recall(plan.rows, store, [defense])
        run = next(run for run in plan.rows if (run.defense, run.seed) == (defense, seed))
        trained = store.cell(run.train_cell)
        assert trained is not None  # the caller has looked
        _Checks(store, plan, _test_images(plan, data_dir, Verification()), found).run(run, trained)
    return found


def _runs(plan: PlanRecord, names: tuple[str, ...]) -> list[RunRecord]:
    """Return the runs of the named defenses, all if none is named; their networks must be known here.

    Raises:
        UsageError: a name is unknown, or the code of a defense is not here.
    """
    known, wanted = {run.defense for run in plan.rows}, {str(parse_defense_spec(name)) for name in names}
    for name in wanted - known:
        raise UsageError(f"--defense: expected a row of this folder, got {name!r}. {did_you_mean(name, known)}")
    runs = [run for run in plan.rows if not wanted or run.defense in wanted]
    here = {entry.name for entry in registry.defenses}
    if missing := dict.fromkeys(run.base for run in runs if run.base not in here):
        files = ", ".join(f"{one.file} (SHA-256 {one.sha256[:12]})" for one in plan.environment.included)
        raise UsageError(
            f"verify: expected the code of {', '.join(missing)}, which is not part of bench, got none. It was made "
            f"with {files or 'an installed plug-in'}: read it, then add --include FILE, which runs it; or name other "
            "rows with --defense."
        )
    return runs


def _test_images(plan: PlanRecord, data_dir: Path | None, found: Verification) -> Split | None:
    """Return the test images, None where they are not on this machine; nothing is downloaded.

    Where the plan names the original images of a public data set and others are here, the plan does not hold; of a
    copy, or of a folder of one's own, there may be another under that name.

    Raises:
        MachineError: `data_dir` has no such images.
        IntegrityError: it has others.
    """
    try:
        return load_test_images(plan, data_dir, download=False)
    except (MachineError, IntegrityError) as error:
        if data_dir is not None:
            raise
        if isinstance(error, IntegrityError) and plan.data.original:
            found.fail("data", str(error))
            return None
    found.notes.append(
        f"{plan.data.name}: the test images are not on this machine, so clean images and clean accuracy are taken as "
        "stored; name their folder with --data to check them too"
    )
    return None


@dataclass(frozen=True)
class _Checks:
    """What is checked with a network, for one folder.

    Attributes:
        store: an open store.
        plan: its last plan.
        test: the test images; None: they are not at hand.
        found: what does not hold is noted here.
    """

    store: Store
    plan: PlanRecord
    test: Split | None
    found: Verification

    def run(self, run: RunRecord, trained: CellRecord) -> None:
        """Load a run's network and check everything that can be computed with it."""
        try:
            model, note = load_measured(self.plan, run, trained, self.store.out)
        except IntegrityError as error:
            self.found.fail(named(run.label, "train", trained.id), str(error))
            return
        self.found.models += 1
        self.found.notes += [note] if note else []
        if not trained.info.get("probe"):
            self.found.notes.append(f"{run.label}: no logits were stored with its weights to compare")
        examples: list[Example] = []
        done = {key: record for key, cell in run.evaluations.items() if (record := self._done(key, cell))}
        for evaluation, record in done.items():
            where = named(run.label, evaluation, record.id)
            try:
                examples += self._cell(evaluation, record, model, where)
            except IntegrityError as error:
                self.found.fail(where, str(error))
        examples += self._challenges(run, trained, model)
        self._count_proofs(done, examples)

    def without_weights(self, run: RunRecord) -> None:
        """Count a run whose weights did not travel: its flags "broken" are as stored, and none is proved."""
        self.found.stayed += 1
        done = {key: record for key, cell in run.evaluations.items() if (record := self._done(key, cell))}
        self._count_proofs(done, [])

    def _done(self, evaluation: str, cell: str) -> CellRecord | None:
        """Return the cell of a planned evaluation, None where it is not finished."""
        record = self.store.cell(cell) if evaluation in self.plan.evaluations else None
        return record if record is not None and record.status == "done" else None

    def _count_proofs(self, done: Mapping[str, CellRecord], examples: list[Example]) -> None:
        """Count for which flags "broken" of a run's test images some example that holds lies within the radius."""
        nearest: dict[tuple[str, int], float] = {}
        for one in examples:
            key = one.norm, one.index
            nearest[key] = min(one.distance, nearest.get(key, math.inf))
        for evaluation, record in done.items():
            planned = self.plan.evaluations[evaluation]
            if planned.split != "test":
                continue
            try:
                table = self.store.table(record.id)
            except IntegrityError:
                continue  # noted already
            for attack in attacks_of(planned, table):
                limit = attack.eps * (1 + TOLERANCE)
                proved = [nearest.get((attack.norm, index), math.inf) <= limit for index in attack.broken(table)]
                self.found.proved += sum(proved)
                self.found.unproved[attack.robust] += len(proved) - sum(proved)

    def _pixels(self) -> np.ndarray | None:
        return None if self.test is None else self.test.pixels()

    def _cell(self, evaluation: str, record: CellRecord, model: nn.Module, where: str) -> list[Example]:
        """Check one evaluation: its stored examples, what it made of stored ones that it read, its clean flags.

        Returns:
            The examples of test images that hold.
        """
        planned = self.plan.evaluations[evaluation]
        test = self.test if planned.split == "test" else None
        data = None if test is None else test.pixels()
        examples = check_examples(self.store, planned, record, model, where, data, self.found)
        if is_reader(planned):
            context = ReaderContext(self.plan.suite.threat, data)
            check_readers(self.store, planned, record, model, where, context, self.found)
        table = self.store.table(record.id)
        columns = expand_columns(planned.columns, planned.arguments)
        clean = [name for name, column in columns.items() if column.role == "clean" and name in table]
        if test is not None and clean:
            check_clean(table, clean, model, test, where, self.found)
        return examples if planned.split == "test" else []

    def _challenges(self, run: RunRecord, trained: CellRecord, model: nn.Module) -> Iterator[Example]:
        """Score the accepted challenges against a run's network again.

        Yields:
            The examples that hold.
        """
        for path in challenge_paths(self.store.out):
            record, images = load_challenge_images(path)
            if (record.weights, record.defense, record.seed) != (trained.info.get("weights"), run.defense, run.seed):
                continue
            where = f"{run.label}: challenge {path.stem[:12]}"
            check_images(images["clean"], dict(enumerate(images["index"].tolist())), self._pixels(), where, self.found)
            labels = np.array([entry.label for entry in record.entries], np.int64)
            scored = rescore(model, images["clean"], labels, images["adversarial"], eps=record.eps, norm=record.norm)
            self.found.examples += len(labels)
            for row, entry in enumerate(record.entries):
                if scored.close[row]:
                    self.found.close += 1
                elif reason := scored.reasons[row]:
                    self.found.fail(where, f"expected an adversarial example, got {reason}", entry.index)
                else:
                    yield Example(record.norm, entry.index, float(scored.distance[row]))
