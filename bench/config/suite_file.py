"""Suites: a TOML file in, a frozen and validated `Suite` out.

docs/reference/suite.md shows one complete annotated file; the shipped ones under `bench/suites/` are examples as well.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bench.config.defense_spec import known_backbone
from bench.config.evaluation_config import check_radii, parse_evaluation
from bench.config.problems import Problems
from bench.config.recipe_table import RecipeTable
from bench.config.suite import Suite, check_defenses, check_seeds
from bench.config.suite_data import DataTable, data_of_suite
from bench.config.validation import explained, table_of
from bench.core import registry
from bench.core.arguments import LARGEST_INT, fraction
from bench.core.errors import UsageError, did_you_mean, nearest
from bench.core.recipe import PAPER
from bench.core.records import ThreatModel, expand_columns
from bench.core.text import one_line
from bench.data.info import DatasetInfo
from bench.data.own import OwnData, safe_folder

_Radius = Annotated[float, BeforeValidator(fraction), Field(gt=0, allow_inf_nan=False)]
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Threat(BaseModel):
    """The table `[threat]`: what ranks the board.

    Attributes:
        norm: of the attack's ball.
        eps: its radius, on [0, 1] pixels; a number or "8/255".
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    norm: Literal["l2", "linf"]
    eps: _Radius


class SuiteFile(BaseModel):
    """A suite file's keys, types and ranges; names are looked up in the registries afterwards.

    Attributes:
        name: also the default result folder, results/<name>.
        description: one paragraph for readers of the board.
        source: where the settings come from; "" if they are yours.
        dataset: a known data set, or a folder or .npz file of your own.
        data: how a folder of your own is read.
        backbone: of every defense that names no other; -w32 behind it sets the width.
        seeds: one training per defense and seed.
        threat: norm and radius of the attack that ranks the board.
        primary_eps: the same in the l2 norm, as one number.
        audit: images on which the official AutoAttack repeats ours.
        repeat: images on which each of its stages runs alone, several times.
        holdout: training images kept apart, for choosing hyper-parameters.
        store_adversarial: whose adversarial examples are kept.
        defenses: one row of the board each: NAME, or NAME:key=value,key=value.
        recipe: what differs from the paper's recipe.
        evaluations: what is measured, in the order of the board's columns.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    description: str = Field(min_length=1)
    source: str = ""
    dataset: str
    data: DataTable | None = None
    backbone: str = Field(pattern=_NAME)
    seeds: list[int] = Field(min_length=1)
    threat: Threat | None = None
    primary_eps: _Radius | None = None
    audit: int = Field(0, ge=0, le=LARGEST_INT)
    repeat: int = Field(0, ge=0, le=LARGEST_INT)
    holdout: int = Field(0, ge=0, le=LARGEST_INT)
    store_adversarial: Literal["primary", "all", "none"] = "primary"
    defenses: list[str] = Field(min_length=1)
    recipe: RecipeTable = Field(default_factory=lambda: RecipeTable.model_validate({}))
    evaluations: dict[str, dict[str, object]] = Field(min_length=1)


_HARMLESS: Final[dict[str, object]] = {
    "name": "unnamed",
    "description": "-",
    "dataset": "digits",
    "backbone": "convnet",
    "seeds": [0],
    "defenses": ["standard"],
    "evaluations": {"accuracy": {}},
}


def load_suite(name_or_path: str | Path, data_dir: str | Path | None = None, *, argument: str = "--suite") -> Suite:
    """Return a shipped suite by name, or one from a TOML file.

    Args:
        name_or_path: the name, or the file.
        data_dir: where a data set of one's own may lie beside the suite's own folder; None: nowhere else.
        argument: what the command line calls the first argument; messages about a missing file begin with it.

    Raises:
        UsageError: no such suite or file, not TOML, an unknown or missing key, a value of the wrong type or range,
            an unknown defense, evaluation or argument; all that is wrong at once, one line each: file, key, expected,
            got, nearest name.
    """
    path = _locate(name_or_path, argument)
    return parse_suite(_toml(path), path.name, path.parent, data_dir)


def parse_suite(content: Mapping[str, object], where: str, folder: Path, data_dir: str | Path | None = None) -> Suite:
    """Return the suite of a file's content.

    Args:
        content: keys and values.
        where: the file's name, which error messages begin with.
        folder: of the file, which paths are relative to.
        data_dir: where a data set of one's own may lie beside it; None: nowhere else.

    Raises:
        UsageError: an unknown or missing key, a value of the wrong type or range, an unknown defense, evaluation or
            argument; all that is wrong at once, one line each.
    """
    problems = Problems()
    file, wrong = _readable(content, where, problems)
    info: DatasetInfo | None = None
    own: OwnData | None = None
    threat: ThreatModel | None = None
    if not wrong & {"dataset", "data"}:
        with problems.found_in():
            info, own = data_of_suite(where, file.dataset, file.data, folder, data_dir)
    shape = info.shape if info else None
    if not wrong & {"threat", "primary_eps"}:
        with problems.found_in():
            threat = _threat(where, file)
            key = "threat.eps" if file.threat else "primary_eps"
            check_radii(f"{where}: {key}", [threat.eps], threat.norm, shape)
    with problems.found_in():
        backbone = known_backbone(f"{where}: backbone", file.backbone)
    with problems.found_in():
        seeds = check_seeds(f"{where}: seeds", file.seeds)
    with problems.found_in():
        defenses = check_defenses(f"{where}: defenses", file.defenses)
    evaluations = []
    for key, table in file.evaluations.items():
        with problems.found_in():
            evaluations.append(parse_evaluation(f"{where}: evaluations.{key}", key, table, shape))
    problems.raise_if_any()
    assert threat is not None  # else something was found above
    assert shape is not None
    suite = Suite(
        name=file.name,
        description=one_line(file.description),
        source=one_line(file.source),
        dataset=safe_folder(file.dataset) if own else file.dataset,
        backbone=backbone,
        seeds=seeds,
        threat=threat,
        audit=file.audit,
        repeat=file.repeat,
        holdout=file.holdout,
        store_adversarial=file.store_adversarial,
        defenses=defenses,
        recipe=PAPER.with_overrides(file.recipe.record()),
        evaluations=tuple(evaluations),
        shape=shape,
        own=own,
    )
    _check_measured(where, suite)
    return suite


def _readable(content: Mapping[str, object], where: str, problems: Problems) -> tuple[SuiteFile, frozenset[str]]:
    """Return a file as far as its keys, types and ranges are right, and the keys that are not.

    In the place of a wrong key stands a value that no later check complains of; of a list, and of a table whose keys
    are free, what is right in it.
    """
    try:
        return SuiteFile.model_validate(content), frozenset()
    except ValidationError as error:
        found = error.errors()
        unknown = [str(one["loc"][0]) for one in found if one["type"] == "extra_forbidden" and len(one["loc"]) == 1]
        meant = {key for name in unknown for key in nearest(name, SuiteFile.model_fields) if key not in content}
        for one, line in zip(found, explained(error, SuiteFile), strict=True):
            if one["type"] != "missing" or one["loc"][0] not in meant:
                problems.add(f"{where}: {line}")
    wrong = frozenset(str(one["loc"][0]) for one in found if one["loc"]) | meant
    right = {key: value for key, value in content.items() if key not in wrong}
    places = {key: [one["loc"][1:2] for one in found if one["loc"][:1] == (key,)] for key in wrong & content.keys()}
    right |= {key: kept for key, at in places.items() if (kept := _without(key, content[key], at))}
    return SuiteFile.model_validate(_HARMLESS | right), wrong


def _without(key: str, value: object, places: Sequence[tuple[int | str, ...]]) -> object:
    """Return a list, or a table whose keys are free, without the items at some places; None: nothing can be kept."""
    wrong = {place[0] for place in places if place}
    if not all(places) or table_of(SuiteFile, [key]) is not SuiteFile:
        return None
    if isinstance(value, Mapping):
        return {name: item for name, item in value.items() if name not in wrong}
    return [item for place, item in enumerate(value) if place not in wrong] if isinstance(value, list) else None


def suites() -> list[dict[str, object]]:
    """Return the shipped suites as plain data; the registries stay untouched, so torch is not imported."""
    return [_listed(_parse(path), path) for _, path in sorted(_shipped().items())]


def _listed(file: SuiteFile, path: Path) -> dict[str, object]:
    """Return a suite file as an entry of `list suites`."""
    threat = _threat(path.name, file)
    return {
        "name": file.name,
        "source": one_line(file.source) or "ours",
        "version": 1,
        "hyperparameters": {},
        "description": one_line(file.description),
        "dataset": file.dataset,
        "backbone": file.backbone,
        "seeds": file.seeds,
        "threat": asdict(threat),
        "primary_eps": threat.eps,
        "defenses": file.defenses,
        "evaluations": list(file.evaluations),
    }


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("bench") / "suites"))
    return {path.stem: path for path in folder.glob("*.toml")}


def _locate(name_or_path: str | Path, argument: str) -> Path:
    text = str(name_or_path)
    if text in _shipped():
        return _shipped()[text]
    if text.endswith(".toml") or "/" in text or "\\" in text:
        if Path(text).is_file():
            return Path(text)
        raise UsageError(
            f"{argument}: expected a suite's name or a TOML file, got {text!r}, which is none. Check the path."
        )
    raise UsageError(
        f"{argument}: expected a suite's name or a TOML file, got {text!r}. {did_you_mean(text, _shipped())}"
    )


def _parse(path: Path) -> SuiteFile:
    """Read a file and check its keys, types and ranges."""
    try:
        return SuiteFile.model_validate(_toml(path))
    except ValidationError as error:
        raise UsageError(*(f"{path.name}: {line}" for line in explained(error, SuiteFile))) from error


def _toml(path: Path) -> dict[str, object]:
    """Return the content of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path.name}: expected a readable file, got {error.strerror}. Check its mode.") from error
    except RecursionError as error:
        raise UsageError(f"{path.name}: expected TOML, got brackets nested too deeply. Remove some.") from error
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise UsageError(f"{path.name}: expected TOML, got {error}. Fix that line.") from error


def _threat(where: str, file: SuiteFile) -> ThreatModel:
    """Return the threat that ranks the board: the table `[threat]`, or `primary_eps` in the l2 norm."""
    if (file.threat is None) == (file.primary_eps is None):
        got = "neither" if file.threat is None else "both"
        raise UsageError(f"{where}: expected either [threat] or primary_eps, got {got}. Write primary_eps = 0.5.")
    if file.primary_eps is not None:
        return ThreatModel("l2", file.primary_eps)
    assert file.threat is not None  # narrows the type
    return ThreatModel(file.threat.norm, file.threat.eps)


def threats_tried(suite: Suite) -> list[ThreatModel]:
    """Return the norm and radius of every attack of a suite.

    Args:
        suite: as it was read.
    """
    tried: list[ThreatModel] = []
    for entry in suite.evaluations:
        for column in expand_columns(registry.evaluations.get(entry.evaluation).columns, entry.arguments).values():
            if column.role == "robust" and {"norm", "eps"} <= column.params.keys():
                tried.append(ThreatModel(str(column.params["norm"]), float(column.params["eps"])))
    return tried


def _check_measured(where: str, suite: Suite) -> None:
    """Refuse a suite whose attacks all have another norm or radius than the threat, so that nothing ranks its board."""
    tried = threats_tried(suite)
    if tried and suite.threat not in tried:
        known = ", ".join(map(str, dict.fromkeys(tried)))
        raise UsageError(
            f"{where}: threat: expected one that an attack of the suite measures ({known}), got {suite.threat}. "
            "Add its eps to one of them."
        )
