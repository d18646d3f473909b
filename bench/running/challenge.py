"""Challenges: somebody's adversarial images against a stored model, judged anew and stored beside the board's verdicts.

An image that holds lowers `best_known_<norm>_<eps>` of the row, never the attack's own column: what the attack found
stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import numpy as np

from bench.config.defense_spec import parse_defense_spec
from bench.core import discovery, registry
from bench.core.errors import IntegrityError, UsageError, did_you_mean
from bench.core.records import ThreatModel
from bench.core.user_code import origins_of
from bench.data.split import Split
from bench.running.apart import Apart
from bench.running.claims import Claim, Refusal, claims_of
from bench.running.handed_over import recall
from bench.running.proposals import read_proposals
from bench.running.rescoring import rescore
from bench.running.stored import RankingColumn, load_measured, load_test_images, robust_columns
from bench.store.challenge_record import (
    MOST_TEXT,
    Challenge,
    ChallengeEntry,
    challenge_paths,
    image_sha256,
    load_challenge_images,
    save_challenge,
)
from bench.store.plan_record import PlanRecord, RunRecord
from bench.store.records import CellRecord
from bench.store.store import Store


@dataclass(frozen=True)
class ChallengeOptions:
    """The options of `challenge`, as parsed.

    Attributes:
        out: the result folder.
        file: the adversarial images.
        defense: the row that they break.
        seed: its model with this training seed; None: all of its models are tried.
        norm: of the ball; None: the suite's.
        eps: radius of the ball; None: the suite's.
        credit: who found the images.
        method: how.
        data_dir: where the data set is looked for first.
        included: third-party files that register the defense.
    """

    out: Path
    file: Path
    defense: str
    seed: int | None = None
    norm: str | None = None
    eps: float | None = None
    credit: str = ""
    method: str = ""
    data_dir: Path | None = None
    included: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChallengeResult:
    """What a file came to.

    Attributes:
        accepted: images that hold against at least one model.
        lowered: of these, pairs of image and model that were counted robust by everything known before.
        refused: those that do not.
        unchanged: images without an index that equal a clean image: they claim nothing.
        stored: the files that were written, one per broken model.
        notes: what a reader must know of the models.
    """

    accepted: int
    lowered: int
    refused: tuple[Refusal, ...]
    unchanged: int
    stored: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """A model under challenge: its run, its training, its verdicts at the threat by place of the image."""

    run: RunRecord
    trained: CellRecord
    robust: dict[int, bool]


def challenge(options: ChallengeOptions) -> ChallengeResult:
    """Judge the images of a file against the models of a row, and store those that hold.

    Args:
        options: of the command.

    Returns:
        What was accepted, what was refused and why.

    Raises:
        UsageError: no such row, seed or threat on the board; credit or method is too long or has control characters.
        IntegrityError: weights, data or file are damaged, or are not what they were.
        SecurityError: the file is too large, or holds more than tensors.
        BenchError: the row's network is third parties' code, and its process has ended or hangs.
    """
    _check_text(options)
    for path in options.included:
        discovery.include(path)
    with Store.open(options.out) as store:
        plan = store.plans.board().plan
        recall(plan.rows, store, [options.defense])
    bases = {run.base for run in plan.rows if run.defense == str(parse_defense_spec(options.defense))}
    origins = origins_of(registry.defenses.get(base).function for base in bases)
    with Apart(f"challenge {options.defense}", origins) as apart:
        found: ChallengeResult = apart.call(judge_challenge, options)
    return found


def judge_challenge(options: ChallengeOptions) -> ChallengeResult:
    """Judge a challenge in a process in which the row's code is loaded, see `challenge`."""
    with Store.open(options.out) as store:
        plan = store.plans.board().plan
        recall(plan.rows, store, [options.defense])
        threat = _threat(plan, options)
        column = _column(plan, threat)
        threat = ThreatModel(threat.norm, float(column.column.params["eps"]))
        targets = _targets(store, plan, options, column)
    test = load_test_images(plan, options.data_dir)
    proposals = read_proposals(options.file, plan.data.shape, plan.data.test.total)
    if proposals.images is None:
        all_refused = tuple(Refusal(i, None, proposals.problem) for i in range(proposals.count))
        return ChallengeResult(0, 0, all_refused, 0, (), ())
    claims, refused, unchanged = claims_of(proposals, test)
    notes, stored, lowered, holding = [], [], 0, set[int]()
    reasons: dict[int, list[str]] = {claim.position: [] for claim in claims}
    known = _known(options.out, threat)
    for target in targets:
        model, note = load_measured(plan, target.run, target.trained, options.out)
        notes += [note] if note else []
        found, why = _judged(model, target, claims, test, threat, known)
        for position, reason in why.items():
            reasons[position].append(reason if len(targets) == 1 else f"{target.run.label}: {reason}")
        if found:
            holding |= {claim.position for claim, _ in found}
            lowered += sum(target.robust[e.index] and not _has(known, target, e.index) for _, e in found)
            stored.append(_store(options, plan, target, threat, found, test))
    refused += [
        Refusal(c.position, c.index, "; ".join(reasons[c.position])) for c in claims if c.position not in holding
    ]
    ordered = tuple(sorted(refused, key=lambda refusal: refusal.position))
    return ChallengeResult(len(holding), lowered, ordered, unchanged, tuple(stored), tuple(notes))


def _check_text(options: ChallengeOptions) -> None:
    for name in ("credit", "method"):
        text = getattr(options, name)
        if len(text) > MOST_TEXT:
            raise UsageError(
                f"--{name}: expected one line of at most {MOST_TEXT} characters, got {len(text)}. Shorten it."
            )
        if hidden := next((c for c in text if not c.isprintable()), ""):
            raise UsageError(f"--{name}: expected one line of printable characters, got {hidden!a}. Remove it.")


def _threat(plan: PlanRecord, options: ChallengeOptions) -> ThreatModel:
    """Return the threat under which the images are judged."""
    suite = plan.suite.threat
    norm, eps = options.norm or (suite.norm if suite else None), options.eps
    if eps is None and suite is not None and norm == suite.norm:
        eps = suite.eps
    if norm is None or eps is None or not math.isfinite(eps) or eps <= 0:
        raise UsageError(
            f"--eps: expected a radius above 0 in {norm or 'a norm'}, got {eps}. Name --norm and --eps of a column of "
            "the board."
        )
    return ThreatModel(norm, eps)


def _column(plan: PlanRecord, threat: ThreatModel) -> RankingColumn:
    """Return the column of robust flags at a threat that the images are to lower.

    Raises:
        UsageError: the board has none.
    """
    attacked = [(str(ThreatModel(str(c.column.params["norm"]), float(c.column.params["eps"]))), c) for c in _at(plan)]
    found = [column for name, column in attacked if name == str(threat)]  # by the digits that columns are named with
    if not found:
        known = ", ".join(dict.fromkeys(name for name, _ in attacked)) or "none"
        raise UsageError(
            f"--norm, --eps: expected a threat at which this board was attacked ({known}), got {threat}. Choose one of "
            "these."
        )
    return found[0]


def _at(plan: PlanRecord) -> list[RankingColumn]:
    return [c for c in robust_columns(plan) if {"norm", "eps"} <= c.column.params.keys()]


def _targets(store: Store, plan: PlanRecord, options: ChallengeOptions, column: RankingColumn) -> list[_Target]:
    """Return the trained and attacked models of the challenged row.

    Raises:
        UsageError: the board has no such row or seed, or its attack is not finished.
    """
    name, known = str(parse_defense_spec(options.defense)), {run.defense for run in plan.rows}
    if name not in known:
        raise UsageError(f"--defense: expected a row of this folder, got {name!r}. {did_you_mean(name, known)}")
    runs = [run for run in plan.rows if run.defense == name and options.seed in (None, run.seed)]
    if not runs:
        seeds = ", ".join(str(run.seed) for run in plan.rows if run.defense == name)
        raise UsageError(
            f"--seed: expected a training seed of {name} ({seeds}), got {options.seed}. Choose one of these."
        )
    found = []
    for run in runs:
        trained, cell = store.cell(run.train_cell), run.evaluations.get(column.key)
        record = store.cell(cell) if cell else None
        if cell and record and record.status == "done" and trained and trained.status == "done":
            table = store.table(cell)
            flags = dict(zip(table["index"].tolist(), table[column.name].astype(bool).tolist(), strict=True))
            found.append(_Target(run, trained, flags))
    if not found:
        raise UsageError(
            f"{name}: expected a model with finished {column.name}, got none. Finish the run before you challenge it."
        )
    return found


def _judged(
    model: object,
    target: _Target,
    claims: Sequence[Claim],
    test: Split,
    threat: ThreatModel,
    known: dict[tuple[str, int], list[np.ndarray]],
) -> tuple[list[tuple[Claim, ChallengeEntry]], dict[int, str]]:
    """Return the claims that hold against a model, with their entries, and position to reason of the others."""
    from torch import nn

    assert isinstance(model, nn.Module)
    why = {
        c.position: "wrong index: the board did not attack this image" for c in claims if c.index not in target.robust
    }
    asked = [claim for claim in claims if claim.position not in why]
    if not asked:
        return [], why
    places = [claim.index for claim in asked]
    clean, labels = test.pixels()[places], test.labels[places]
    scored = rescore(model, clean, labels, np.stack([c.image for c in asked]), eps=threat.eps, norm=threat.norm)
    found = []
    for row, claim in enumerate(asked):
        same = any(np.array_equal(claim.image, old) for old in known.get((_weights(target), claim.index), ()))
        reason = scored.reasons[row] or ("this very image is stored already" if same else "")
        if reason:
            why[claim.position] = reason
            continue
        entry = ChallengeEntry(
            index=claim.index,
            label=int(labels[row]),
            prediction=int(scored.prediction[row]),
            distance=float(scored.distance[row]),
            clean_sha256=image_sha256(clean[row]),
        )
        found.append((claim, entry))
    return found, why


def _weights(target: _Target) -> str:
    return str(target.trained.info["weights"])


def _has(known: dict[tuple[str, int], list[np.ndarray]], target: _Target, index: int) -> bool:
    return bool(known.get((_weights(target), index)))


def _known(out: Path, threat: ThreatModel) -> dict[tuple[str, int], list[np.ndarray]]:
    """Return (weights, place) to the images of the challenges that were accepted before, at a threat."""
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for path in challenge_paths(out):
        old, images = load_challenge_images(path)
        if (old.norm, old.eps) == (threat.norm, threat.eps):
            for entry, image in zip(old.entries, images["adversarial"], strict=True):
                found.setdefault((old.weights, entry.index), []).append(image)
    return found


def _store(
    options: ChallengeOptions,
    plan: PlanRecord,
    target: _Target,
    threat: ThreatModel,
    found: list[tuple[Claim, ChallengeEntry]],
    test: Split,
) -> Path:
    """Write the examples that hold against a model, and return the file."""
    found = sorted(found, key=lambda one: one[1].index)
    record = Challenge(
        defense=target.run.defense,
        seed=target.run.seed,
        weights=_weights(target),
        data=plan.data.name,
        fingerprint=test.fingerprint,
        norm=cast(Literal["l2", "linf"], threat.norm),
        eps=threat.eps,
        credit=options.credit,
        method=options.method,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        entries=tuple(entry for _, entry in found),
    )
    places = np.array([entry.index for _, entry in found], np.int64)
    images = {
        "index": places,
        "clean": test.pixels()[places],
        "adversarial": np.stack([claim.image for claim, _ in found]),
    }
    path = save_challenge(options.out, record, images)
    _, again = load_challenge_images(path)
    if not all(np.array_equal(again[name], images[name]) for name in images):
        raise IntegrityError(f"{path}: expected the images as written, got others. Check the disk.")
    return path
