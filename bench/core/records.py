"""The known facts as frozen records: what a column, a defense, an attack and an evaluation are.

Standard library only: every other module may import this one.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from string import Formatter
from typing import Any, ClassVar, Final, Literal, get_args

from bench.core.arguments import whole
from bench.core.errors import UsageError, did_you_mean
from bench.core.handed_over import HandedOver
from bench.core.recipe import Recipe
from bench.core.settable import settable_parameters
from bench.core.text import one_line, several_lines

Automatic = Literal["never", "stored", "audit", "repeat"]
Track = Literal["deterministic", "randomised"]  # models of the two are measured and ranked apart
Summary = Callable[[Any, Any], Mapping[str, object]]  # (model, device) to plain data about the model as a whole
Kind = Literal["flag", "value", "count", "text"]
Aggregate = Literal["fraction", "mean", "sum"]
Direction = Literal["higher", "lower", "none"]
IntervalKind = Literal["wilson", "bootstrap", "none"]
Role = Literal[
    "clean",  # right without an attack
    "robust",  # right under an attack at a threat
    "best_known",  # right under everything that anyone has found
    "certified",  # proved right at a threat
    "distance",  # size of the perturbation that broke the image
    "breaking",  # size of the smallest change known to break it
    "broken_by",  # the stage that broke it
    "refused",  # a claim of the attack that did not hold
    "inferred",  # taken to withstand a ball since it withstood a larger one
    "race_full",  # survived a race of short attacks and met the full one
    "race_sampled",  # given up by the race, and drawn for the full attack
    "race_outrun",  # and broken by it
    "missed",  # withstood the attack in a ball and fell to it in a smaller one
    "adversarial",  # the images that an attack proposes
    "transfer",  # right on images found against other rows
    "margin",
    "gradient_norm",
    "hessian_norm",
    "curvature",
    "stability",  # change of the gradient at a radius
    "bound",  # a side of an inequality
    "tightness",  # measured over what must hold
    "rate",  # measured over what may fail
    "share",  # part of a quantity that comes from one place
    "violations",  # theorems seen broken
    "violation",  # the first of them, in words
    "undecided",  # statements that could not be decided
    "not_applicable",  # why nothing is claimed, in words
    "lipschitz",  # Lipschitz constant of the network
    "local_slope",  # slope met at the image
    "coordinate",  # where a point lies
    "trust",  # a number that a check of trust reads
    "audit",  # verdicts on which two implementations differ
    "repeat",  # whether one run of one kind of attack alone broke the image
    "corruption",  # right on corrupted copies of the image
    "repeat_seed_used",  # whether its second seed ended at another point
    "other",
]


@dataclass(frozen=True, slots=True)
class Column:
    """One per-example column of an evaluation, and the number of the board that it feeds, if any.

    Attributes:
        description: one sentence, for the glossary and the tooltip.
        unit: "" for a pure number; "share" for one in [0, 1] that pages write in per cent, as they do fractions.
        kind: "flag" is boolean; "value" a float (NaN = missing); "count" an integer; "text" a string.
        board: the board's column, with the same {placeholders}; None: not on the board.
        aggregate: how the board's number is made: "fraction" (of a flag, with a Wilson interval), "mean", "sum".
        direction: which way is better for the defense.
        formula: the formula in plain text.
        source: paper and section.
        role: what the column is for; boards, figures and exports choose columns by it, never by name.
        params: what the number was measured at, e.g. `{"norm": "l2", "eps": 0.5, "attack": "pgd"}`. The values of the
            name's placeholders are added when the pattern is expanded.
        shown: whether the page's table shows the column from the start.
        interval: the board number's 95 % interval in leaderboard.csv: "wilson" (of a fraction), "bootstrap" (of a
            mean), or "none". On the page and in leaderboard.json every mean over images has its bootstrap interval.
        companion_of: pattern of the column that this one is read beside, e.g. a bound beside what it bounds.
        companion: what it is to that column, in one word: "worst", "bound", "approximation".
        ranks: preference as the ranking column among the robust columns of one threat; 0 never ranks.
        heading: name for readers, e.g. "Proposition 1, sharp form"; "": made from the column's name.
        csv_interval: whether leaderboard.csv holds the ends of the interval beside the number.
        pattern: the pattern that a concrete column was expanded from; "" in a declaration.

    Raises:
        UsageError: a kind, aggregate, direction, role or interval that there is not.
    """

    description: str
    unit: str = ""
    kind: Kind = "value"
    board: str | None = None
    aggregate: Aggregate = "mean"
    direction: Direction = "none"
    formula: str = ""
    source: str = ""
    role: Role = "other"
    params: Mapping[str, float | str] = field(default_factory=dict)
    shown: bool = True
    interval: IntervalKind = "none"
    companion_of: str = ""
    companion: str = ""
    ranks: int = 0
    pattern: str = ""
    heading: str = ""
    csv_interval: bool = True

    def __post_init__(self) -> None:
        choices = {"kind": Kind, "aggregate": Aggregate, "direction": Direction, "role": Role, "interval": IntervalKind}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in get_args(allowed):
                hint = did_you_mean(str(value), get_args(allowed))
                raise UsageError(f"Column {self.description!r}: expected a known {name}, got {value!r}. {hint}")
        for name in ("description", "unit", "formula", "source", "companion", "heading"):
            object.__setattr__(self, name, one_line(getattr(self, name)))

    @property
    def level(self) -> tuple[str, float] | None:
        """The parameter that a family of columns differs in, with its value here: `("eps", 0.5)`; None without one.

        It is the first placeholder of the pattern that is a number, else the budget or radius among `params`.
        """
        fields = [name for _, name, _, _ in Formatter().parse(self.pattern) if name]
        for name in (*fields, "eps", "radius"):
            value = self.params.get(name)
            if isinstance(value, int | float):
                return name, float(value)
        return None

    def metadata(self) -> dict[str, object]:
        """Return what a reader of the stored table needs, prose left out: the plan has that, by pattern."""
        return {k: v for k, v in asdict(self).items() if k not in ("description", "formula", "source", "heading")}


class Grade(IntEnum):
    """Grade of the trust checks, the better the smaller."""

    A = 0
    B = 1
    C = 2
    INVALID = 3


NORM_SYMBOLS: Mapping[str, str] = {"l2": "ℓ₂", "linf": "ℓ∞"}


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """What an adversary may do: perturb pixels in [0, 1] by at most `eps` in a norm.

    Attributes:
        norm: "l2" or "linf".
        eps: radius of the ball in that norm, > 0.
    """

    norm: str
    eps: float

    def __str__(self) -> str:
        return f"{self.norm} {self.eps:g}"

    def matches(self, column: Column) -> bool:
        """Tell whether a column was measured under exactly this threat."""
        return column.params.get("norm") == self.norm and column.params.get("eps") == self.eps


def expand_columns(
    columns: Mapping[str, Column], arguments: Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, Column]:
    """Return the concrete columns of an evaluation, in the order of the names that it returned.

    Args:
        columns: the declared columns by pattern. A placeholder that is an argument stands for each of its values in
            `:g` format; any other one counts 0, 1, 2, … as far as there are names.
        arguments: the evaluation's arguments.
        names: the names that it returned. None: it has not run yet; the columns whose names the arguments determine.

    Returns:
        Name to Column, with `params` and `pattern` filled in. Names that no pattern gives are left out.
    """
    wanted = None if names is None else list(names)
    found: dict[str, Column] = {}
    for pattern, column in columns.items():
        fields = [name for _, name, _, _ in Formatter().parse(pattern) if name]
        for values in _placeholder_values(pattern, fields, arguments, set(wanted or ())):
            texts = {k: f"{v:g}" if isinstance(v, int | float) else str(v) for k, v in values.items()}
            name = pattern.format(**texts)
            if wanted is None or name in wanted:
                board = column.board.format(**texts) if column.board else column.board
                companion = column.companion_of.format(**texts)
                params = {**column.params, **values}
                found[name] = replace(column, board=board, companion_of=companion, params=params, pattern=pattern)
    return found if wanted is None else {name: found[name] for name in wanted if name in found}


def _placeholder_values(
    pattern: str, fields: list[str], arguments: Mapping[str, Any], names: set[str]
) -> Iterator[dict[str, float | str]]:
    """Yield the values of a pattern's placeholders, one set per concrete name."""
    counted = [name for name in fields if name not in arguments]
    given = [list(v) if isinstance(v := arguments[name], list | tuple) else [v] for name in fields if name in arguments]
    for chosen in itertools.product(*given):
        values = dict(zip([name for name in fields if name in arguments], chosen, strict=True))
        if not counted:
            yield values
            continue
        for number in itertools.count():
            numbered = values | dict.fromkeys(counted, number)
            if pattern.format(**{k: f"{v:g}" if isinstance(v, float) else v for k, v in numbered.items()}) not in names:
                break
            yield numbered


@dataclass(frozen=True, slots=True)
class Adaptive:
    """An attack that a defense's author declares against the own defense; run beside the standard ones.

    Attributes:
        surrogate: `surrogate(model) -> nn.Module`, a differentiable stand-in whose gradients are used (BPDA).
        eot: draws averaged per gradient of a randomised model (1 = deterministic).
        loss: `loss(logits (B, K), y (B,)) -> (B,)`, which the attack maximises.

    Raises:
        UsageError: `eot` is no whole number from 1 up.
    """

    surrogate: Callable[[Any], Any] | None = None
    eot: int = 1
    loss: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        """Check the number of draws."""
        whole("Adaptive: eot", self.eot, 1)


@dataclass(frozen=True, slots=True)
class Registered:
    """What defense, attack and evaluation have in common; their texts are cleaned.

    Attributes:
        name: the function's name, the key of the registry.
        function: the function as written, unchanged.
        source: paper and place.
        version: raised by hand when the meaning changes; part of every cell's key.
        parameters: the arguments that a user may set, by name, annotations resolved where they can be: the
            keyword-only ones of the function's signature, without those that the pipeline fills in.
        depends_on: files whose content is part of every cell's key, beside the source that is found by itself.
    """

    reserved: ClassVar[frozenset[str]] = frozenset()  # arguments which the pipeline fills in

    name: str
    function: Callable[..., Any]
    source: str
    version: int
    parameters: Mapping[str, inspect.Parameter] = field(default_factory=dict, kw_only=True, compare=False, repr=False)
    depends_on: tuple[Path, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Clean the texts; read the parameters from the function's signature where none were given."""
        object.__setattr__(self, "source", one_line(self.source))
        if not self.parameters:
            object.__setattr__(self, "parameters", settable_parameters(self.function, self.reserved))

    @property
    def description(self) -> str:
        """The docstring, cleaned."""
        return several_lines(inspect.getdoc(self.function) or "")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The parameters' defaults (`...` for a required one)."""
        return {name: ... if p.default is p.empty else p.default for name, p in self.parameters.items()}


@dataclass(frozen=True, slots=True)
class Defense(Registered):
    """A registered defense: `function(num_classes, in_shape, backbone, *, <hyper-parameters>) -> nn.Module`.

    Attributes:
        recipe: what differs from the suite's recipe.
        adaptive: the author's own attack on the defense.
        bibtex: how to cite it.
        title: its name for readers; "": the registered name.
        link: of its paper; "" without one.
        venue: where the paper appeared; "" if unknown.
        year: when; None if unknown.
        handed_over: where its weights come from, if it was trained elsewhere; None: it is trained here.
        randomised: whether its network answers differently at each call, in eval mode too; ranked apart, by votes.
    """

    recipe: Recipe = field(default_factory=Recipe)
    adaptive: Adaptive | None = None
    bibtex: str = ""
    title: str = ""
    link: str = ""
    venue: str = ""
    year: int | None = None
    handed_over: HandedOver | None = None
    randomised: bool = False

    @property
    def track(self) -> Track:
        """Where it is measured and ranked."""
        return "randomised" if self.randomised else "deterministic"


@dataclass(frozen=True, slots=True)
class Attack(Registered):
    """A registered attack: `function(model, x, y, *, eps, norm, seed, …) -> x_adv (B, C, H, W)`.

    Attributes:
        norms: what `norm` may be, of "l2" and "linf".
        chunk: images per stored chunk.
        extra: further per-example numbers that it puts into its `trace`, by name.
        adaptive: its evaluation takes the worst case with the attack that the defense's author declares.
        ranks: preference as the ranking column among the attacks on one threat; 0 never ranks.
        csv_interval: whether leaderboard.csv holds the ends of its robust accuracy's interval.
        gradients: whether it follows gradients.
        randomised: its arguments on a randomised model, where they differ.
    """

    reserved: ClassVar[frozenset[str]] = frozenset({"seed", "norm", "trace"})

    norms: tuple[str, ...] = ("l2", "linf")
    chunk: int = 500
    extra: Mapping[str, Column] = field(default_factory=dict)
    adaptive: bool = False
    ranks: int = 0
    csv_interval: bool = True
    gradients: bool = True
    randomised: Mapping[str, object] = field(default_factory=dict)


REFERENCE_RANK: Final = 2  # from this `ranks` on an attack is the reference: what it breaks is stored whoever ranks


@dataclass(frozen=True, slots=True)
class Need:
    """What an evaluation reads of other cells: a column, chosen by its role at the suite's threat.

    Where several attacks have such a column it is that of the one with the highest `ranks`.

    Attributes:
        role: role of the column, e.g. "robust" (one flag per image) or "adversarial" (stored images).
        of: "own": of the same run; "others": of the runs of every other defense.
        optional: the evaluation does without where there is no such column; its `inputs` then lack the role.
    """

    role: Role
    of: Literal["own", "others"]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation(Registered):
    """A registered evaluation: `function(model, x, y, *, seed, …) -> {column: (B,) tensor, array or list}`.

    Attributes:
        columns: pattern of the column's name (`{eps}`, `{radius}` stand for a number in `:g` format) to Column.
        chunk: images per chunk, the unit that is stored and resumed; fixed, so that results do not depend on it.
        summary: `summary(model, device) -> dict` of plain data about the model as a whole, kept in the cell's info.
        attack: the attack that it runs, None if it runs none.
        peers: reference implementations of that attack, by library, which the argument `peer` chooses.
        adaptive: the function takes `adaptive: Adaptive | None`, the attack that the defense's author declares.
        needs: what it reads of other cells; the function then takes `inputs: BatchInputs` (`bench.measuring.inputs`).
        automatic: when a suite that does not name it gets it, at its threat and on the images that the reference
            attack is run on: "never", "stored" (its needs are met: adversarial examples are stored and there are
            other defenses), or "audit" and "repeat" (the suite's key of that name is set; on that many images, drawn
            at random).
        gradients: whether it follows gradients; it is then refused on models that give none.
        tracks: of the models that it can measure; it is not planned for others.
    """

    reserved: ClassVar[frozenset[str]] = frozenset({"seed", "norm", "trace", "adaptive", "inputs"})

    columns: Mapping[str, Column] = field(default_factory=dict)
    chunk: int = 500
    summary: Summary | None = None
    attack: Attack | None = None
    peers: tuple[str, ...] = ()
    adaptive: bool = False
    needs: tuple[Need, ...] = ()
    automatic: Automatic = "never"
    gradients: bool = False
    tracks: tuple[Track, ...] = ("deterministic",)
