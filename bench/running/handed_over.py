"""Models that were trained elsewhere, as rows of a plan: a factory in a file, and perhaps a file of weights.

Such a model is registered as a defense whose factory takes no hyper-parameters, so that whatever loads a row's network
loads it too. Instead of a training it has a cell that takes its weights over (`take_over`).
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from bench.core import discovery, registry, user_code
from bench.core.errors import UsageError, did_you_mean
from bench.core.handed_over import PROVENANCE, HandedOver
from bench.core.recipe import Recipe
from bench.core.records import Defense
from bench.core.text import is_link, one_line
from bench.core.user_code import LoadedCode
from bench.running import sources
from bench.running.cells import Hashed, Spec, runtime
from bench.store import foreign_weights
from bench.store.plan_record import RunRecord
from bench.store.store import Store
from bench.training.loop import TrainJob

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Submission:
    """A model that a command hands over.

    Attributes:
        model: what builds its network, and its weights.
        name: of its row.
        source: paper and place; "" if unknown.
        title: its name for readers; "": the row's name.
        link: address of the paper or of the weights; "" without one.
    """

    model: HandedOver
    name: str
    source: str = ""
    title: str = ""
    link: str = ""


def parse_model(text: str, weights: Path | None = None) -> HandedOver:
    """Return the model of `--model FILE.py:FACTORY` and `--weights FILE`; the file of weights is hashed.

    Args:
        text: as typed.
        weights: file of weights; None: the factory brings them.

    Raises:
        UsageError: not of that form, or a file is not there.
    """
    file, colon, factory = text.rpartition(":")
    if not colon or not factory.isidentifier() or not file.endswith(".py"):
        names = ", ".join(_defined(Path(text)))
        advice = f"It defines {names}." if names else "Name the function that builds the network."
        raise UsageError(f"--model: expected FILE.py:FACTORY, got {text!r}. {advice}")
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"--model: expected a Python file, got {file!r}, which is none. Check the path.")
    sha256 = foreign_weights.digest(weights) if weights else ""
    return HandedOver(path, factory, weights.resolve() if weights else None, sha256)


def _defined(path: Path) -> list[str]:
    """Return the public functions and classes of a Python file, which is read and not run; none if it is no such."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    found = (n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef))
    return [name for name in found if not name.startswith("_")]


def default_name(model: HandedOver) -> str:
    """Return the name of a model's row where none is given: that of its weights' file, else its factory's."""
    stem = model.weights.stem if model.weights else model.factory
    return _UNSAFE.sub("-", stem).strip("-._")[:64] or model.factory


def register(model: HandedOver, name: str, *, source: str = "", title: str = "", link: str = "") -> Defense:
    """Register a model that was handed over as a defense, and return it.

    Args:
        model: what is handed over; its file is imported, once.
        name: of the row.
        source: paper and place; "" if unknown.
        title: its name for readers; "": the row's name.
        link: address of the paper or of the weights; "" without one.

    Returns:
        The entry.

    Raises:
        UsageError: the file does not import, has no such factory, the name is that of a registered defense, or the
            link is none.
    """
    module = discovery.include(model.file)
    factory = getattr(module, model.factory, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        got = "none of that name" if factory is None else f"{type(factory).__name__}, which cannot be called"
        hint = did_you_mean(model.factory, known) if known else "Define it: def load(): return my_network()."
        raise UsageError(f"--model: expected a function {model.factory} in {model.file.name}, got {got}. {hint}")
    if name in registry.defenses and registry.defenses.get(name).handed_over is None:
        raise UsageError(f"--name: expected a new name, got {name!r}, which is a registered defense. Choose another.")
    if link and not is_link(link):
        raise UsageError(
            f"--link: expected an address that begins with https:// or http://, got {link!r}. Link to the paper's page."
        )
    entry = Defense(
        name=name,
        function=_adapted(factory, module.__name__, model.factory),
        source=source or f"{PROVENANCE}: {model.spelling}",
        version=1,
        recipe=Recipe(),
        title=one_line(title, 100),
        link=link,
        handed_over=model,
    )
    registry.defenses.add(entry)
    return entry


def _adapted(factory: Callable[[], Any], module: str, name: str) -> Callable[..., nn.Module]:
    """Return a factory without arguments as one of a defense; it counts as code of the factory's file."""

    def build(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> nn.Module:
        network: nn.Module = factory()
        return network

    build.__module__, build.__name__, build.__qualname__ = module, name, name
    build.__doc__ = inspect.getdoc(factory)
    return build


def take_over_spec(
    job: TrainJob, device: torch.device, built: LoadedCode | None, hashed: Hashed = sources.sources
) -> Spec:
    """Return everything that can change the weights and the network of a model that was handed over, as plain data.

    Its name is not part of it: a renamed row computes nothing anew.

    Args:
        job: builds the network.
        device: where; only its kind counts.
        built: what the factory loaded and read when it built the network.
        hashed: hashes the source files.
    """
    model = job.defense.handed_over
    assert model is not None  # narrows the type: the caller asks for models that were handed over
    return {
        "handed_over": {"factory": model.spelling, "sha256": model.sha256},
        "num_classes": job.num_classes,
        "shape": list(job.shape),
        "seed": job.seed,
        "sources": hashed([job.defense.function], job.defense.depends_on, built),
        "runtime": runtime(device.type, "fp32"),
    }


def recall(rows: Iterable[RunRecord], store: Store, names: Collection[str] = ()) -> None:
    """Register the handed-over rows of a stored plan, so that their networks can be built; their files are included.

    Args:
        rows: of the plan.
        store: it holds which file and factory each of them comes from.
        names: rows whose networks are needed; empty: all.

    Raises:
        UsageError: a file has not been included, or has no such factory any more.
    """
    modules = [module for module in sys.modules.values() if isinstance(module, ModuleType)]
    origins = [origin for module in modules if (origin := user_code.origin_of_file(module))]
    included = {path.name: path for path in (Path(origin.name) for origin in origins)}
    for row in rows:
        needed = not names or row.defense in names
        if row.provenance != PROVENANCE or not needed or row.base in registry.defenses:
            continue
        cell = store.cell(row.train_cell)
        stored = cell.spec.get("handed_over") if cell else None
        file, _, factory = str(stored["factory"]).rpartition(":") if isinstance(stored, dict) else ("", "", "")
        if file not in included:
            raise UsageError(
                f"{row.defense}: expected {file or 'the file'} that builds its network, got none. Read it, then add "
                f"--include {file or 'FILE.py'}, which runs it; or name other rows with --defense."
            )
        register(HandedOver(included[file], factory), row.base, source=row.source)
