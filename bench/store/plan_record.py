"""The plan of a command as the store keeps it: versioned, strict types that reports, packs and status read.

The writer builds the records from the live objects; every reader gets them validated. A field that is added,
removed or changes its meaning raises `PLAN_FORMAT`; records since `OLDEST_FORMAT` lack only fields that have defaults.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from bench.core.errors import IntegrityError, StoreError
from bench.core.records import Column, Need, ThreatModel

PLAN_FORMAT = 3
OLDEST_FORMAT = 2  # that is still read
Settings = dict[str, JsonValue]  # names to plain values: hyper-parameters, arguments, a recipe, overrides


class _Record(BaseModel):
    """A frozen record without unknown fields or silent conversions."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class EvaluationConfigRecord(_Record):
    """One evaluation as the suite sets it.

    Attributes:
        evaluation: the registered name.
        arguments: every keyword argument.
        limit: first N images of the split; None: all.
        split: "test" or "train".
        seed: seed of the evaluation's own draws.
        sample: so many of these images, drawn at random; None: all.
    """

    evaluation: str
    arguments: Settings = {}
    limit: int | None = None
    split: Literal["test", "train"] = "test"
    seed: int = 0
    sample: int | None = None


class OwnDataRecord(_Record):
    """How a folder of one's own is read: `[data]` of the suite.

    Attributes:
        test: images held out for testing, a share below 1 or a number; 0: the folder has a test part.
        size: (H, W) to which pictures are scaled; None: as they are.
        channels: 1 or 3; None: as they are.
    """

    test: float = 0
    size: tuple[int, int] | None = None
    channels: int | None = None


class SuiteRecord(_Record):
    """The suite of a command, after the command line changed it.

    Attributes:
        name: of the file, and of the default result folder.
        description: one paragraph for readers of the board.
        source: where the settings come from.
        dataset: the data set that the suite names.
        backbone: of every defense that does not name another.
        seeds: one training per defense and seed.
        threat: the threat whose robust accuracy ranks the board; None: nothing ranks.
        audit: images on which the official AutoAttack repeats ours.
        holdout: training images kept apart for choosing hyper-parameters.
        store_adversarial: whose adversarial examples are kept.
        defenses: canonical defense specs.
        recipe: the suite's recipe.
        evaluations: by key, in the suite's order.
        own_data: how the folder is read that is its data set; None: a named data set.
    """

    name: str
    description: str = ""
    source: str = ""
    dataset: str
    backbone: str
    seeds: tuple[int, ...]
    threat: ThreatModel | None
    audit: int = 0
    holdout: int = 0
    store_adversarial: Literal["primary", "all", "none"] = "primary"
    defenses: tuple[str, ...]
    recipe: Settings
    evaluations: dict[str, EvaluationConfigRecord] = {}
    own_data: OwnDataRecord | None = None

    @property
    def primary_eps(self) -> float | None:
        """The threat's radius."""
        return self.threat.eps if self.threat else None


class SplitRecord(_Record):
    """One side of the data: images used, images there are, SHA-256 of images and labels."""

    n: int
    total: int
    fingerprint: str


class DataRecord(_Record):
    """The data that were found.

    Attributes:
        name: of the original files, or of the folder.
        original: whether the files have the original's checksums.
        layout: in which form they were found.
        classes: names of the classes.
        shape: (C, H, W) of an image.
        train: the training images.
        test: the test images.
        note: what a reader must know about them.
    """

    name: str
    original: bool
    layout: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: SplitRecord
    test: SplitRecord
    note: str = ""


class IncludedFile(_Record):
    """A third-party file that was imported: its name without a path, and its SHA-256."""

    file: str
    sha256: str


class EnvironmentRecord(_Record):
    """Where the command ran: versions, device, commit. No host name, no path.

    Attributes:
        bench: version of bench.
        python: version of Python.
        torch: version of torch.
        platform: system and architecture.
        device: device kind.
        device_name: name of the GPU; "CPU".
        threads: threads of torch.
        commit: commit of the checkout; "" outside one.
        dirty: whether the checkout was changed; None outside one.
        packages: package to version; "absent" where it is not installed.
        included: third-party files that were imported.
        step: how a training step was carried out.
        deterministic: whether training repeats bit by bit.
    """

    bench: str
    python: str
    torch: str
    platform: str
    device: str
    device_name: str
    threads: int = 1
    commit: str = ""
    dirty: bool | None = None
    packages: dict[str, str] = {}
    included: tuple[IncludedFile, ...] = ()
    step: str = ""
    deterministic: bool | None = None


class EvaluationRecord(EvaluationConfigRecord):
    """One planned evaluation.

    Attributes:
        n: images that it is computed on.
        source: paper and place.
        version: of the registered evaluation.
        description: its docstring.
        columns: pattern of the column's name to Column.
        needs: what it reads of other cells.
    """

    n: int
    source: str
    version: int
    description: str
    columns: dict[str, Column]
    needs: tuple[Need, ...] = ()

    @property
    def reads_others(self) -> bool:
        """Whether it reads cells of other runs, so that it waits for all of them."""
        return any(need.of == "others" for need in self.needs)


class RunRecord(_Record):
    """One model of the plan: a defense and a seed.

    Attributes:
        defense: canonical defense spec.
        base: name of the registered defense.
        seed: training seed.
        provenance: who trained it.
        train_cell: id of its training's cell.
        evaluations: key of an evaluation to the id of its cell, as far as known.
        unsuited: keys of the plan's evaluations that cannot measure this model: it is randomised, or it is not.
        description: the defense's docstring.
        source: paper and place.
        version: of the registered defense.
        bibtex: how to cite it; "" if unknown.
        title: the defense's name for readers; "": the registered name.
        link: of its paper; "" without one.
        venue: where the paper appeared; "" if unknown.
        year: when; None if unknown.
        hyperparameters: all of them.
        recipe: the complete recipe.
        backbone: what it is built on.
    """

    defense: str
    base: str
    seed: int
    provenance: str
    train_cell: str
    evaluations: dict[str, str] = {}
    unsuited: tuple[str, ...] = ()
    description: str
    source: str
    version: int
    bibtex: str = ""
    title: str = ""
    link: str = ""
    venue: str = ""
    year: int | None = None
    hyperparameters: Settings
    recipe: Settings
    backbone: str

    @property
    def label(self) -> str:
        """How the run is named on the terminal, e.g. "lcnn seed 0"."""
        return f"{self.defense} seed {self.seed}"


class PlanRecord(_Record):
    """Everything that a command was going to do.

    Attributes:
        format: `PLAN_FORMAT` of the version that wrote it.
        command: as typed.
        created: ISO 8601, UTC.
        suite: the suite as the command line changed it.
        overrides: what the command line changed in it.
        data: what was found.
        environment: where the command ran.
        evaluations: by key; their order is the board's.
        rows: one per defense and seed, seeds outermost.
        only: whether the board shows this command's rows alone.
    """

    format: int = Field(default=PLAN_FORMAT, ge=OLDEST_FORMAT, le=PLAN_FORMAT)
    command: str
    created: str
    suite: SuiteRecord
    overrides: Settings = {}
    data: DataRecord
    environment: EnvironmentRecord
    evaluations: dict[str, EvaluationRecord]
    rows: tuple[RunRecord, ...]
    only: bool = False

    def bound(self, cells: dict[tuple[int, str], str]) -> PlanRecord:
        """Return the plan with the cells of its evaluations filled in.

        Args:
            cells: (place of the run, key of the evaluation) to the id of the cell.
        """
        found: list[dict[str, str]] = [{} for _ in self.rows]
        for (place, key), cell in cells.items():
            found[place][key] = cell
        rows = tuple(row.model_copy(update={"evaluations": e}) for row, e in zip(self.rows, found, strict=True))
        return self.model_copy(update={"rows": rows})


def parse_plan(text: str, where: str) -> PlanRecord:
    """Return the plan record of its JSON text.

    Args:
        text: as the store keeps it.
        where: the store's file, for messages.

    Raises:
        StoreError: an older or newer version wrote it.
        IntegrityError: it is damaged.
    """
    try:
        content = json.loads(text)
        found = content.get("format") if isinstance(content, dict) else None
        if isinstance(found, int) and not OLDEST_FORMAT <= found <= PLAN_FORMAT:
            age = "an older" if found < OLDEST_FORMAT else "a newer"
            raise StoreError(
                f"{where}: expected plan format {OLDEST_FORMAT} to {PLAN_FORMAT}, got {found}, written by {age} bench. "
                "Use that version, or choose another --out."
            )
        return PlanRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"{place}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    raise IntegrityError(
        f"{where}: expected a sound plan, got {problem}. The store was changed outside bench: restore it, or delete "
        "the folder and run again."
    )
