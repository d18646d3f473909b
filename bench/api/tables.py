"""`bench.evaluate`: the per-example table of a trained model."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench.api.door import first_answers
from bench.api.images import Data, read_data
from bench.api.measured import Kept, measured
from bench.api.progress import Shown, Steps, steps
from bench.api.trust import measures_trust, own_inputs, threat_of, trust_of
from bench.attacks.core.draws import RandomisedModel
from bench.config.evaluation_config import EvaluationConfig, check_radii, default_evaluation, norm_of
from bench.config.suite_file import load_suite
from bench.core import registry
from bench.core.arguments import Number, whole
from bench.core.errors import UsageError
from bench.core.records import Column, Evaluation, Track
from bench.core.torch_state import known_state, threads_for
from bench.data import catalog
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.measuring.model_contract import DOOR_IMAGES, BadModel
from bench.measuring.runner import Chunk, evaluate_chunks
from bench.measuring.witness import Witness
from bench.running.environment import choose_device

_EVALUATIONS_OF_TENSORS = ("accuracy", "pgd_l2", "autoattack_l2", "stability", "curvature")
_SUFFIX = "_adversarial"


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is evaluated on what.

    Attributes:
        split: images and labels.
        evaluations: all that the suite has, or the default ones.
        classes: number of logits, if known.
        from_suite: whether a name means the suite's own evaluation of that key.
    """

    split: Split
    evaluations: tuple[EvaluationConfig, ...]
    classes: int | None
    from_suite: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        c, h, w = self.split.images.shape[1:]
        return c, h, w


@overload
def evaluate(
    model: nn.Module,
    *,
    suite: str | None = ...,
    data: Data | None = ...,
    evaluations: Sequence[str] | str | None = ...,
    eps: Number | Sequence[Number] | None = ...,
    limit: int | None = ...,
    seed: int = ...,
    device: str | torch.device | None = ...,
    batch_size: int | None = ...,
    data_dir: str | Path | None = ...,
    randomised: bool = ...,
    return_adversarial: Literal[False] = ...,
    out: str | Path | None = ...,
    progress: Shown = ...,
) -> pd.DataFrame: ...
@overload
def evaluate(
    model: nn.Module,
    *,
    suite: str | None = ...,
    data: Data | None = ...,
    evaluations: Sequence[str] | str | None = ...,
    eps: Number | Sequence[Number] | None = ...,
    limit: int | None = ...,
    seed: int = ...,
    device: str | torch.device | None = ...,
    batch_size: int | None = ...,
    data_dir: str | Path | None = ...,
    randomised: bool = ...,
    return_adversarial: Literal[True],
    out: str | Path | None = ...,
    progress: Shown = ...,
) -> tuple[pd.DataFrame, dict[str, Tensor]]: ...
def evaluate(
    model: nn.Module,
    *,
    suite: str | None = None,
    data: Data | None = None,
    evaluations: Sequence[str] | str | None = None,
    eps: Number | Sequence[Number] | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    data_dir: str | Path | None = None,
    randomised: bool = False,
    return_adversarial: bool = False,
    out: str | Path | None = None,
    progress: Shown = None,
) -> pd.DataFrame | tuple[pd.DataFrame, dict[str, Tensor]]:
    """Return a per-example table of a trained model: one row per image, one column per quantity.

    The caller's global state (inference mode, no_grad, autocast, default dtype and device, …) changes no result and is
    put back, as are the model's modes and device.

    Args:
        model: float32 (B, C, H, W) in [0, 1] → logits (B, K), normalisation inside; for others see `bench.wrap`.
        suite: name or file of a suite, whose data set and evaluations are used; or
        data: images (N, C, H, W) float in [0, 1] (or uint8) and labels (N,), as a pair of tensors, arrays or lists, a
            DataLoader, or a Dataset of (image, label).
        evaluations: names; None: the suite's, or with `data` accuracy, pgd_l2, autoattack_l2, stability and curvature.
        eps: budgets of every attack, in the norm's own units on [0, 1] pixels, also "8/255"; None: the suite's, or the
            attack's own.
        limit: first N images.
        seed: of the random draws (with `data`; a suite brings its own).
        device: where; None: where the model's parameters are.
        batch_size: images per call; None: what memory should hold.
        data_dir: where the suite's data set is looked for first.
        randomised: declare that the model answers differently at each call, in eval mode too: it is judged by votes
            over draws and attacked in expectation over them; an undeclared one is refused.
        return_adversarial: whether the attacks' images are returned too; not with `out`.
        out: a folder that keeps finished chunks of images, so that the same call goes on after an interruption; None:
            nothing is kept.
        progress: whether to show how far the call is, on stderr; None: on a terminal or in a notebook; a function is
            called with a line for each evaluation, and before them if the model gives probabilities, not logits.

    Returns:
        Columns `index`, `label`, then those of each evaluation. `attrs["cost"]` has forwards, backwards, seconds (CPU
        time on a CPU, a GPU's own time there) and wall_seconds of each evaluation, and batch_size_fitted where memory
        ran out; `attrs["bounds"]` the number of violations, where bounds were checked; `attrs["trust"]` grade and
        checks, where `trust` was run: {"grade", "reasons", "adaptive", "checks": {name: {"title", "severity",
        "verdict", "value", "threshold", "images", "words"}}}. With `return_adversarial` that table, and the images
        (N, C, H, W) by attack and budget, e.g. "pgd_l2_0.1": the adversarial example of each row, the image itself
        where none was found.

    Raises:
        UsageError: neither or both of `suite` and `data`, an unknown name, an argument out of range, data of another
            form, or a model that breaks the contract or gives no gradients to an attack that follows them.
        LockedError: another process computes the same into `out`.
    """
    if return_adversarial and out is not None:
        raise UsageError("evaluate: expected either out= or return_adversarial=True, got both. Leave one of them out.")
    if (suite is None) == (data is None):
        raise UsageError("evaluate: expected either suite= or data=, got both or neither. Give one of them.")
    limit = None if limit is None else whole("evaluate: limit", limit, 1)
    batch_size = None if batch_size is None else whole("evaluate: batch_size", batch_size, 1)
    seed = whole("evaluate: seed", seed)
    with ExitStack() as stack:
        stack.enter_context(known_state())
        subject = _suite_subject(suite, limit, data_dir) if suite else _data_subject(data, limit, seed)
        chosen = _with_budgets(_chosen(subject, evaluations, seed), eps, subject.shape)
        randomised |= isinstance(model, RandomisedModel)
        chosen = _of_track("randomised" if randomised else "deterministic", chosen, named=evaluations is not None)
        stack.enter_context(threads_for(subject.split.images[0].size))
        model = _plain(model)
        if randomised and not isinstance(model, RandomisedModel):
            model = RandomisedModel(model)
        target = _target(model, device)
        stack.enter_context(_moved(model, target))
        witness = stack.enter_context(Witness.start(model) or nullcontext()) if _needs_witness(chosen, target) else None
        door = to_unit(torch.tensor(subject.split.images[:DOOR_IMAGES])).to(target)
        k, note = first_answers(model, door, subject.classes)
        if (largest := int(subject.split.labels.max())) >= k:
            raise UsageError(f"evaluate: expected labels below {k} (the logits' width), got {largest}.")
        kept = None if out is None else stack.enter_context(Kept(Path(out), model, subject.shape, target))
        around = stack.enter_context(steps(progress)), kept, witness
        around[0].note(note)
        table, images = _table(model, subject.split, chosen, target, batch_size, return_adversarial, around)
    return (table, images) if return_adversarial else table


def _table(
    model: nn.Module,
    split: Split,
    entries: Sequence[EvaluationConfig],
    device: torch.device,
    batch_size: int | None,
    pictures: bool,
    surroundings: tuple[Steps, Kept | None, Witness | None],
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Run the evaluations one after the other; return their columns joined by image, and the images if asked for."""
    said, kept, witness = surroundings
    table = pd.DataFrame({"index": np.arange(len(split)), "label": split.labels})
    cost: dict[str, dict[str, float]] = {}
    images: dict[str, Tensor] = {}
    facts: dict[str, Column] = {}
    spent: dict[str, float] = {}
    registered = {e.evaluation: registry.evaluations.get(e.evaluation) for e in entries}
    for entry in sorted(entries, key=lambda e: bool(registered[e.evaluation].needs)):  # last what reads the others
        evaluation, own = registered[entry.evaluation], split.first(entry.limit)
        settings: dict[str, Any] = {
            "arguments": dict(entry.arguments),
            "seed": entry.seed,
            "inputs": own_inputs(evaluation, entry, table, facts, spent, witness),
            "batch_size": batch_size,
            "pictures": pictures,
        }
        compute = functools.partial(_chunks, said, evaluation, model, own, device, settings)
        said.begin(entry.key, -(-len(own) // evaluation.chunk))
        if kept is None:
            found = measured(list(compute(())))
        else:
            found = kept.measure(evaluation, entry.arguments, own, entry.seed, compute)
        said.end(entry.key, len(own))
        part = found.table.drop(columns="label")
        if entry.key != entry.evaluation:  # a second entry of one evaluation, named as on the board
            part = part.rename(columns={c: f"{entry.key}_{c}" for c in part.columns if c in table and c != "index"})
        new = [c for c in part.columns if c == "index" or c not in table.columns]
        facts |= {c: found.facts[c] for c in new if c in found.facts}
        table = table.merge(part[new], on="index", how="left", validate="one_to_one")
        cost[entry.key] = found.cost
        spent |= dict.fromkeys(new, (found.cost["forwards"] + found.cost["backwards"]) / len(own))
        for name, column in found.pictures.items():
            images[name.removesuffix(_SUFFIX)] = torch.tensor(column, dtype=torch.float32)
    table.attrs["cost"] = cost
    if "bound_violations" in table:
        table.attrs["bounds"] = {"violations": int(table["bound_violations"].fillna(0).sum())}
    for entry in entries:
        if measures_trust(registered[entry.evaluation]):
            track: Track = "randomised" if isinstance(model, RandomisedModel) else "deterministic"
            table.attrs["trust"] = trust_of(table, facts, threat_of(registered[entry.evaluation], entry), track)
    return table, images


def _chunks(
    said: Steps,
    evaluation: Evaluation,
    model: nn.Module,
    split: Split,
    device: torch.device,
    settings: Mapping[str, Any],
    done: Sequence[int],
) -> Iterator[Chunk]:
    """Yield the chunks of an evaluation that are not done yet, and say when each one is."""
    for chunk in evaluate_chunks(evaluation, model, split, device, done=done, **settings):
        yield chunk
        said.chunk()


def _suite_subject(name: str, limit: int | None, data_dir: str | Path | None) -> _Subject:
    suite = load_suite(name, data_dir).with_overrides(limit=limit)
    dataset = catalog.load(suite.dataset, data_dir=data_dir, limit=limit, need_train=False, own=suite.own)
    evaluations = tuple(e for e in suite.evaluations if e.split == "test")
    return _Subject(dataset.test, evaluations, len(dataset.classes), from_suite=True)


def _data_subject(data: Data | None, limit: int | None, seed: int) -> _Subject:
    assert data is not None  # narrows the type; the caller has checked
    evaluations = tuple(default_evaluation(name, seed) for name in _EVALUATIONS_OF_TENSORS)
    return _Subject(read_data("evaluate", data, limit), evaluations, None, from_suite=False)


def _chosen(subject: _Subject, names: Sequence[str] | str | None, seed: int) -> list[EvaluationConfig]:
    """Return the evaluations of these names, each once; one that the suite lacks is evaluated with its defaults."""
    if names is None:
        return [*subject.evaluations]
    if not names:
        raise UsageError("evaluate: expected at least one evaluation, got none. Leave the argument out for all.")
    own = {e.key: e for e in subject.evaluations} if subject.from_suite else {}
    wanted = dict.fromkeys([names] if isinstance(names, str) else names)
    return [own[name] if name in own else default_evaluation(name, seed) for name in wanted]


def _needs_witness(entries: Sequence[EvaluationConfig], device: torch.device) -> bool:
    """Tell whether answers of a copy of the model are read, and can be had: it is made before the first question."""
    return device.type == "cpu" and any(measures_trust(registry.evaluations.get(e.evaluation)) for e in entries)


def _of_track(track: Track, entries: Sequence[EvaluationConfig], *, named: bool) -> list[EvaluationConfig]:
    """Return the evaluations that can measure a model of this track.

    Raises:
        UsageError: one that was asked for by name cannot, or none can.
    """
    suited = [e for e in entries if track in registry.evaluations.get(e.evaluation).tracks]
    if (named and len(suited) < len(entries)) or not suited:
        unsuited = next(e.key for e in entries if e not in suited)
        raise UsageError(
            f"evaluate: expected evaluations of {track} models, got {unsuited}. Leave it out: its numbers do not exist "
            "for such a model."
        )
    return suited


def _with_budgets(
    evaluations: Sequence[EvaluationConfig], eps: Number | Sequence[Number] | None, shape: tuple[int, int, int]
) -> list[EvaluationConfig]:
    """Return the evaluations at other budgets, where they have any; None changes nothing."""
    if eps is None:
        return [*evaluations]
    found = []
    for e in evaluations:
        if "eps" in e.arguments:
            norm = norm_of(registry.evaluations.get(e.evaluation), "eps")
            e = replace(e, arguments={**e.arguments, "eps": check_radii("evaluate: eps", eps, norm, shape)})
        found.append(e)
    return found


class _Scripted(nn.Module):
    """A plain module around a script, on which passes can be counted; a frozen one has no modes or weights."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script if hasattr(script, "training") else None
        self._call = [script]  # in a list it is no submodule

    def forward(self, x: Tensor) -> Tensor:
        """Return the script's logits (B, K) of x (B, C, H, W)."""
        return self._call[0](x)


def _plain(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile was given, or a script within a plain module; others as they are.

    The first is the same function up to rounding, and gives second derivatives too.
    """
    if isinstance(model, torch.jit.ScriptModule):
        return _Scripted(model)
    return getattr(model, "_orig_mod", model) if type(model).__name__ == "OptimizedModule" else model


def _devices_of(model: nn.Module) -> list[torch.device]:
    if not isinstance(model, nn.Module):
        raise BadModel(f"model: expected an nn.Module, got {type(model).__name__}. Write bench.wrap(model).")
    devices = dict.fromkeys(t.device for t in (*model.parameters(), *model.buffers()))
    # A skeleton on the meta device gets its weights in forward(), e.g. by functional_call: nothing is there to move.
    return [] if all(device.type == "meta" for device in devices) else list(devices)


def _target(model: nn.Module, device: str | torch.device | None) -> torch.device:
    """Return where images go: the device asked for, else that of the model's first weight.

    Raises:
        UsageError: an unknown device, or one for a model that is split over several.
        MachineError: it is not there.
    """
    there = _devices_of(model)
    if device is None:
        return there[0] if there else torch.device("cpu")
    known = isinstance(device, torch.device) and device.type not in ("cpu", "cuda")
    target = torch.device(device) if known else choose_device(str(device), "evaluate: device")
    if len(there) > 1:
        raise UsageError(
            f"evaluate: device: expected none for a model on {', '.join(map(str, there))}, got {target}. "
            "Leave it out: images go to its first weight's device."
        )
    return target


@contextmanager
def _moved(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Have the model on a device inside the block, and on its own afterwards; nothing is called if it is there."""
    there = _devices_of(model)
    same = not there or len(there) > 1 or torch.empty(0, device=device).device == there[0]
    if same:
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to(there[0])
