"""What a cell is: the unit of work, caching, resuming and distribution, and the key that names it.

A key is the SHA-256 of canonical JSON of everything that can change the cell's result and of nothing else: never
a time, a path, a host or the evaluation's batch size. Source files count by their syntax tree (`sources`), so that an
edited defense or attack is computed anew and an edited comment is not.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import JsonValue

from bench.core.hashing import sha256_of
from bench.core.records import Adaptive, Evaluation
from bench.core.user_code import LoadedCode
from bench.data.split import Split
from bench.evaluations.robustness import peer_attack
from bench.measuring import runner
from bench.running import sources
from bench.training import loop
from bench.training.execution import ExecutionConfig
from bench.training.loop import TrainJob

Spec = dict[str, Any]  # everything that can change a cell's result, as plain data
Hashed = Callable[[list[Callable[..., object]], tuple[Path, ...], LoadedCode | None], dict[str, str]]


@dataclass(frozen=True)
class Cell:
    """One model to be trained, or one evaluation of one set of weights on one set of images.

    Attributes:
        kind: "train" or "evaluation".
        spec: everything that can change the result, as plain data.
    """

    kind: Literal["train", "evaluation"]
    spec: Mapping[str, Any]

    @functools.cached_property
    def id(self) -> str:
        """The cell's key."""
        return key(self.kind, self.spec)


def key(kind: str, spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a cell's description in canonical JSON."""
    text = json.dumps({"kind": kind, **spec}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256_of(text.encode())


def train_spec(
    job: TrainJob,
    device: torch.device,
    execution: ExecutionConfig,
    built: LoadedCode | None,
    hashed: Hashed = sources.sources,
) -> Spec:
    """Return everything that can change the weights of a training, as plain data.

    Args:
        job: what is trained.
        device: where; only its kind counts.
        execution: how a step is carried out; what rounds differently counts.
        built: what the factory loaded and read when it built the network; None: it is ours, whose imports are enough.
        hashed: hashes the source files; `RememberedSources` where many cells are described.
    """
    functions: list[Callable[..., object]] = [job.defense.function, loop.train]
    functions += [job.recipe.loss] if job.recipe.loss else []
    return {
        "defense": job.defense.name,
        "version": job.defense.version,
        "hyperparameters": {k: plain(v) for k, v in job.hyperparameters.items()},
        "backbone": job.backbone,
        "recipe": job.recipe.settings(),
        "data": job.train.fingerprint,
        "num_classes": job.num_classes,
        "shape": list(job.shape),
        "seed": job.seed,
        "sources": hashed(functions, job.defense.depends_on, built),
        "runtime": runtime(device.type, job.recipe.precision) | execution.key(device),
    } | ({"randomised": True} if job.defense.randomised else {})


def evaluation_spec(
    evaluation: Evaluation,
    arguments: Mapping[str, object],
    split: Split,
    device: torch.device,
    *,
    seed: int,
    keep_images: frozenset[str] | None,
) -> Spec:
    """Return everything that can change an evaluation's table but the model.

    Args:
        evaluation: the registered evaluation.
        arguments: all of its arguments, defaults filled in.
        split: the images that it is computed on.
        device: where; only its kind counts.
        seed: of its random draws.
        keep_images: names of the image columns that are stored; None: all.
    """
    functions: list[Callable[..., object]] = [evaluation.function, runner.evaluate_chunks]
    functions += [evaluation.summary] if evaluation.summary else []
    files, peer = evaluation.depends_on, str(arguments.get("peer") or "")
    if evaluation.attack is not None:
        files += evaluation.attack.depends_on
        functions.append(evaluation.attack.function)
        if peer:
            functions.append(peer_attack(evaluation.attack.name, peer))
    return {
        "evaluation": evaluation.name,
        "version": evaluation.version,
        "arguments": {k: plain(v) for k, v in arguments.items()},
        "data": split.fingerprint,
        "seed": seed,
        "sources": sources.sources(functions, files),
        "runtime": runtime(device.type, "fp32") | ({peer: metadata.version(peer)} if peer else {}),
        "pictures": "all" if keep_images is None else sorted(keep_images),
    }


def evaluation_cell(
    trained: Mapping[str, Any], weights: str, spec: Mapping[str, Any], adaptive: Adaptive | None
) -> Cell:
    """Return the cell of an evaluation of one trained model.

    Args:
        trained: spec of the training cell: the same weights can be two models, as with test-time defenses.
        weights: their SHA-256.
        spec: of the evaluation.
        adaptive: the attack that the defense's author declares.
    """
    own: Spec = {}
    if adaptive is not None:
        functions = [f for f in (adaptive.surrogate, adaptive.loss) if f is not None]
        own = {"adaptive": {"eot": adaptive.eot, "sources": sources.sources(functions)}}
    return Cell("evaluation", {"model": {**trained, "weights": weights}, **spec, **own})


def runtime(device: str, precision: str) -> dict[str, str]:
    """Return the part of a key that says where numbers are computed: device kind, precision, torch's major.minor."""
    return {
        "device": device.partition(":")[0],
        "precision": precision,
        "torch": ".".join(torch.__version__.split(".")[:2]),
    }


def plain(value: object) -> JsonValue:
    """Return a hyper-parameter or an argument as JSON data."""
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
