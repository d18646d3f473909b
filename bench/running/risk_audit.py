"""The risk-limiting audit of a result folder: freeze the claim, draw the seed, attack the stored models again."""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.config.defense_spec import parse_defense_spec
from bench.core import discovery, registry
from bench.core.errors import (
    BenchError,
    IntegrityError,
    MachineError,
    SecurityError,
    Stopped,
    StoreError,
    UsageError,
    did_you_mean,
)
from bench.core.records import Evaluation, ThreatModel
from bench.core.seeding import derive
from bench.core.user_code import Origin, origins_of
from bench.data.split import Split
from bench.evaluations.robustness import peers_of
from bench.measuring.runner import evaluate_chunks
from bench.packs.opened import opened
from bench.running import cells
from bench.running.apart import Apart
from bench.running.environment import choose_device
from bench.running.handed_over import recall
from bench.running.stopping import StopRequest
from bench.running.stored import RankingColumn, load_run, load_test_images, ranking_column
from bench.store.audit_record import (
    FILE_NAME,
    AuditedModel,
    AuditFile,
    AuditRecord,
    FrozenClaim,
    load_audits,
    save_audits,
)
from bench.store.plan_record import PlanRecord, RunRecord
from bench.store.records import CellRecord
from bench.store.store import Store
from bench.trust.risk_audit import continue_audit

SEED_BITS = 48  # a public seed is short enough to be read aloud


@dataclass(frozen=True)
class AuditOptions:
    """The options of `audit`, as parsed.

    Attributes:
        out: the result folder, or a pack of one.
        margin: share of the images counted robust that may fall, as typed.
        risk: probability of confirming a false claim, as typed.
        seed: public seed; None: drawn after the claim is frozen, or that of the same claim's last audit.
        defenses: audited rows; empty: all.
        attack: a registered attack, or a library that offers the ranking one; None: the ranking attack as it was set.
        data_dir: where the data set is looked for first.
        device: auto, cpu, cuda or cuda:i.
        max_images: stop after so many images in all.
        time_limit: stop after so many seconds.
        included: third-party files that register defenses or attacks.
    """

    out: Path
    margin: str = "0.01"
    risk: str = "0.05"
    seed: int | None = None
    defenses: tuple[str, ...] = ()
    attack: str | None = None
    data_dir: Path | None = None
    device: str = "auto"
    max_images: int | None = None
    time_limit: float | None = None
    included: tuple[str, ...] = ()


@dataclass(frozen=True)
class Auditor:
    """The frozen attack on the stored models, ready to attack any number of the list.

    Attributes:
        plan: the audited plan.
        runs: the audited runs, in the claim's order.
        trained: what the store knows of their trainings.
        claim: the frozen claim.
        evaluation: the attack's evaluation.
        test: the test images.
        out: the result folder.
        device: where.
        threat: the claim's.
        one_by_one: attack images one at a time, because a result depends on the batch.
    """

    plan: PlanRecord
    runs: tuple[RunRecord, ...]
    trained: tuple[CellRecord, ...]
    claim: FrozenClaim
    evaluation: Evaluation
    test: Split
    out: Path
    device: torch.device
    threat: ThreatModel
    one_by_one: bool

    def __call__(self, numbers: Sequence[int]) -> list[str]:
        """Attack images of the frozen list, model by model; return the cause of each one's fall, "" if it holds."""
        units = self.claim.units
        causes = [""] * len(numbers)
        for place, run in enumerate(self.runs):
            mine = [row for row, number in enumerate(numbers) if units[number][0] == place]
            if not mine:
                continue
            model = load_run(self.plan, run, self.trained[place], self.out).to(self.device)
            images = [units[numbers[row]][1] for row in mine]
            for row, cause in zip(mine, self._attack_model(model, run, images), strict=True):
                causes[row] = cause
        return causes

    def _attack_model(self, model: nn.Module, run: RunRecord, images: list[int]) -> list[str]:
        if len(images) > 1 and self.one_by_one:
            return [cause for image in images for cause in self._attack_model(model, run, [image])]
        try:
            return self._causes(model, run, images)
        except Exception as error:  # a failed attack counts as a hit: the image's robustness was not shown
            if len(images) > 1:
                return [cause for image in images for cause in self._attack_model(model, run, [image])]
            return [f"failed: {type(error).__name__}: {error}"[:200]]

    def _causes(self, model: nn.Module, run: RunRecord, images: list[int]) -> list[str]:
        part = Split.of(self.test.images[images], self.test.labels[images])
        seed = self.claim.attack["seed"]
        assert isinstance(seed, int)
        arguments = self.claim.attack["arguments"]
        assert isinstance(arguments, dict)
        adaptive = registry.defenses.get(run.base).adaptive
        causes: list[str] = []
        for chunk in evaluate_chunks(
            self.evaluation, model, part, self.device, arguments=dict(arguments), seed=seed, adaptive=adaptive
        ):
            robust = next(n for n, c in chunk.columns.items() if c.role == "robust" and self.threat.matches(c))
            by = next(n for n, c in chunk.columns.items() if c.role == "broken_by" and self.threat.matches(c))
            flags, stages = chunk.table[robust].tolist(), chunk.table[by].tolist()
            causes += ["" if flag else str(stage) for flag, stage in zip(flags, stages, strict=True)]
        return causes


def audit(
    options: AuditOptions,
    *,
    before: Callable[[AuditRecord, bool], None] = lambda audit, full_count: None,
    on_block: Callable[[AuditRecord], None] = lambda audit: None,
) -> tuple[AuditRecord, int]:
    """Audit the robust accuracies of a result folder, and store the audit beside them.

    The claim is frozen and hashed before the seed is drawn. The same command again goes on with a stopped audit and
    repeats the conclusion of a finished one; another seed starts a further audit of the same claim, which is stored
    beside the first.

    Args:
        options: of the command.
        before: is given the audit before the first attack, and whether all images will be attacked.
        on_block: is given the audit after every block of images.

    Returns:
        The audit as far as it has come, and how many audits of this claim the folder holds.

    Raises:
        UsageError: a name or number is wrong, or there is nothing to audit.
        IntegrityError: weights, data or an earlier audit are not what they were.
    """
    stop = StopRequest(options.time_limit)
    for path in options.included:
        discovery.include(path)
    with opened(options.out) as results, contextlib.ExitStack() as held:
        inside = replace(options, out=results.folder)
        auditor = prepare_auditor(inside)
        origins = origins_of(_functions(auditor))
        attack: Callable[[Sequence[int]], Sequence[str]] = auditor
        if origins:
            attack = apart = _AuditorApart(inside, origins, stop)
            held.enter_context(apart)
        stored = load_audits(results.records if (results.records / FILE_NAME).is_file() else results.folder)
        current, others = _current(auditor.claim, stored, options.seed)
        full_count = current.claim.rule.needs_a_full_count()
        before(current, full_count)

        def save(record: AuditRecord) -> None:
            nonlocal current
            current = record
            save_audits(results.records, AuditFile(audits=(*others, record)))
            on_block(record)

        save_audits(results.records, AuditFile(audits=(*others, current)))
        with stop.signals(), contextlib.suppress(Stopped):  # within a block, which is attacked again
            continue_audit(
                current, attack, full_count=full_count, max_draws=options.max_images, should_stop=stop, on_block=save
            )
    return current, 1 + sum(other.claim_sha256 == current.claim_sha256 for other in others)


def _functions(auditor: Auditor) -> list[Callable[..., object]]:
    """Return the registered functions that an audit calls."""
    evaluation = auditor.evaluation
    defenses = [registry.defenses.get(run.base) for run in auditor.runs]
    found: list[Callable[..., object] | None] = [evaluation.function]
    found.append(None if evaluation.attack is None else evaluation.attack.function)
    for defense in defenses:
        found += [defense.function, *((a.surrogate, a.loss) if (a := defense.adaptive) else ())]
    return [function for function in found if function is not None]


class _AuditorApart(Apart):
    """The frozen attack in a child process, because it calls third parties' code.

    An image over which the process ends or hangs counts as a hit, as one does whose attack fails: that it is robust was
    not shown.
    """

    def __init__(self, options: AuditOptions, origins: tuple[Origin, ...], stop: StopRequest) -> None:
        super().__init__("audit", origins)
        self._options, self._stop = options, stop

    def __call__(self, numbers: Sequence[int]) -> list[str]:
        """Attack images of the frozen list; return the cause of each one's fall, "" if it holds."""
        try:
            causes: list[str] = self.call(attack_numbers, self._options, tuple(numbers), stop=self._stop)
        except (MachineError, IntegrityError, SecurityError, StoreError):
            raise
        except BenchError as error:
            if len(numbers) > 1:
                return [cause for number in numbers for cause in self([number])]
            return [f"failed: {error}"[:200]]
        return causes


@functools.lru_cache(maxsize=1)
def _auditor(options: AuditOptions) -> Auditor:
    return prepare_auditor(options)


def attack_numbers(options: AuditOptions, numbers: Sequence[int]) -> list[str]:
    """Attack images of a claim's list: what an audit calls in another process.

    Args:
        options: of the command.
        numbers: places in the list.

    Returns:
        The cause of each image's fall, "" if it holds.
    """
    return _auditor(options)(numbers)


def _current(claim: FrozenClaim, stored: AuditFile, seed: int | None) -> tuple[AuditRecord, list[AuditRecord]]:
    """Return the audit to go on with, and the folder's others: the same claim and seed, or a new one."""
    sha = claim.sha256
    same = [a for a in stored.audits if a.claim_sha256 == sha and seed in (None, a.seed)]
    if same:
        return same[-1], [a for a in stored.audits if a is not same[-1]]
    record = AuditRecord(
        claim=claim,
        claim_sha256=sha,
        frozen_at=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=secrets.randbits(SEED_BITS) if seed is None else seed,
        seed_source="drawn" if seed is None else "given",
    )
    return record, list(stored.audits)


def prepare_auditor(options: AuditOptions) -> Auditor:
    """Read what a folder claims, and freeze it together with the attack.

    Args:
        options: of the command.

    Returns:
        The frozen claim, and what attacks its images.

    Raises:
        UsageError: a name or number is wrong, or nothing is counted robust.
        IntegrityError: the data are not those of the run.
    """
    device = choose_device(options.device)
    with Store.open(options.out) as store:
        plan = store.plans.board().plan
        recall(plan.rows, store, options.defenses)
        ranking = ranking_column(plan)
        runs = _chosen_runs(plan, options.defenses)
        found = [(run, store.cell(run.train_cell), _audited(store, run, ranking)) for run in runs]
    audited = [(run, trained, model) for run, trained, model in found if trained is not None and model is not None]
    test = load_test_images(plan, options.data_dir)
    threat = plan.suite.threat
    assert threat is not None  # or nothing would rank
    evaluation, arguments = _attack(options.attack, ranking, threat)
    models = tuple(model for _, _, model in audited)
    seed = derive("audit", models) % 2**31  # known only once the list is; libraries take 31 bits
    attack = cells.evaluation_spec(evaluation, arguments, test, device, seed=seed, keep_images=frozenset())
    claim = FrozenClaim(
        column=ranking.name,
        data=test.fingerprint,
        models=models,
        attack=attack,
        margin=options.margin,
        risk=options.risk,
    )
    _check(claim)
    peer = bool(arguments.get("peer"))
    return Auditor(
        plan=plan,
        runs=tuple(run for run, _, _ in audited),
        trained=tuple(trained for _, trained, _ in audited),
        claim=claim,
        evaluation=evaluation,
        test=test,
        out=options.out,
        device=device,
        threat=threat,
        one_by_one=peer,
    )


def _check(claim: FrozenClaim) -> None:
    """Refuse a claim that cannot be audited."""
    for name, text in (("margin", claim.margin), ("risk", claim.risk)):
        try:
            Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise UsageError(f"--{name}: expected a number such as 0.01, got {text!r}. Write a decimal.") from None
    try:
        _ = claim.rule
    except ValueError as error:
        raise UsageError(str(error)) from None


def _chosen_runs(plan: PlanRecord, names: Sequence[str]) -> list[RunRecord]:
    """Return the runs of the named defenses, all if none is named."""
    known = {run.defense for run in plan.rows}
    wanted = {str(parse_defense_spec(name)) for name in names}
    for name in wanted - known:
        raise UsageError(f"--defense: expected a row of this folder, got {name!r}. {did_you_mean(name, known)}")
    return [run for run in plan.rows if not wanted or run.defense in wanted]


def _audited(store: Store, run: RunRecord, ranking: RankingColumn) -> AuditedModel | None:
    """Return a run's images counted robust; None where its ranking evaluation is not finished."""
    trained, cell = store.cell(run.train_cell), run.evaluations.get(ranking.key)
    record = store.cell(cell) if cell else None
    if cell is None or record is None or record.status != "done" or trained is None or trained.status != "done":
        return None
    table = store.table(cell)
    robust = np.sort(table.loc[table[ranking.name].astype(bool), "index"].to_numpy())
    return AuditedModel(
        run=run.label, weights=str(trained.info["weights"]), n=len(table), robust=tuple(int(i) for i in robust)
    )


def _attack(name: str | None, ranking: RankingColumn, threat: ThreatModel) -> tuple[Evaluation, dict[str, object]]:
    """Return the auditor's attack as an evaluation with all of its arguments."""
    own = registry.evaluations.get(ranking.evaluation.evaluation)
    attack = own.attack.name if own.attack else ""
    budget: dict[str, object] = {"eps": [threat.eps]}
    if name is None:
        return own, {**ranking.evaluation.arguments, **budget}
    if attack and name in peers_of(attack):
        return own, {**own.hyperparameters, **budget, "peer": name}
    known = [a.name for a in registry.attacks if threat.norm in a.norms]
    if name not in known:
        peers = ", ".join(peers_of(attack)) if attack else "none"
        raise UsageError(
            f"--attack: expected an attack in {threat.norm} or a library that offers {attack} ({peers}), got {name!r}. "
            f"{did_you_mean(name, known)}"
        )
    other = registry.evaluations.get(f"{name}_{threat.norm}")
    return other, {**other.hyperparameters, **budget}
