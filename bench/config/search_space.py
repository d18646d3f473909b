"""What a search varies: defense specs whose values are ranges `low..high` or choices `a|b|c`, and what it tries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bench.config.defense_spec import parse_defense_spec, split_defense_spec
from bench.config.recipe_table import recipe_fields
from bench.config.setting import settable
from bench.core import registry
from bench.core.errors import UsageError
from bench.core.seeding import derive

LOG_RATIO = 10.0  # a range of positive numbers whose ends are so far apart is drawn by its logarithm
DIGITS = 3  # of a drawn value
MOST_DRAWS = 100  # per trial, until one is found that is not there yet


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting that is varied.

    Attributes:
        choices: the values as written; () for a range.
        low: lower end of a range.
        high: upper end.
        whole: whether a range is of whole numbers.
    """

    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    def draw(self, generator: np.random.RandomState) -> str:
        """Return one value as a spec has it: of a range log-uniform where it spans a decade, in few digits."""
        if self.choices:
            return self.choices[generator.randint(len(self.choices))]
        u = generator.uniform()
        if self.low > 0 and self.high >= LOG_RATIO * self.low:
            value = math.exp(math.log(self.low) + u * math.log(self.high / self.low))
        else:
            value = self.low + u * (self.high - self.low)
        if self.whole:
            return str(round(value))
        narrow = max(abs(self.low), abs(self.high)) / (self.high - self.low)  # the digits that its ends share
        digits = DIGITS + math.ceil(math.log10(max(narrow, 1.0)))
        return f"{min(max(float(f'{value:.{digits}g}'), self.low), self.high):.12g}"


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """A defense and what is varied in it.

    Attributes:
        text: as written.
        name: the registered defense.
        fixed: settings with one value, as written.
        axes: settings that are varied.
    """

    text: str
    name: str
    fixed: Mapping[str, str]
    axes: Mapping[str, Axis]

    def trials(self, budget: int, seed: int) -> tuple[str, ...]:
        """Return the specs to try, in their canonical spelling; a larger budget goes on where a smaller one ended.

        Of choices alone: their grid, in an order drawn by the seed. With a range: first the defense as it is without
        what is varied, then draws, each by the seed, the space and its number alone. A space without anything to vary
        is one trial.

        Args:
            budget: how many, at least 1.
            seed: of the draws.

        Raises:
            UsageError: the space has fewer settings than the budget, so that the budgets would not be equal.
        """
        if not self.axes:
            return (self._spec({}),)
        found: dict[str, None] = {}
        for values in itertools.islice(self._points(seed), budget * MOST_DRAWS):
            found[self._spec(values)] = None
            if len(found) == budget:
                return tuple(found)
        raise UsageError(
            f"--budget: expected at least {budget} different settings of {self.text}, got {len(found)}. Lower it, or "
            "give the defense more values: every defense gets the same number of trials."
        )

    def _points(self, seed: int) -> Iterator[dict[str, str]]:
        """Yield the values of the axes, trial by trial."""
        if all(axis.choices for axis in self.axes.values()):
            grid = list(itertools.product(*(axis.choices for axis in self.axes.values())))
            order = np.random.RandomState(derive("search", self.text, seed) % 2**32).permutation(len(grid))
            yield from (dict(zip(self.axes, grid[place], strict=True)) for place in order)
            return
        yield {}
        for number in itertools.count(1):
            generator = np.random.RandomState(derive("search", self.text, seed, number) % 2**32)
            yield {key: axis.draw(generator) for key, axis in self.axes.items()}

    def _spec(self, values: Mapping[str, str]) -> str:
        settings = ",".join(f"{key}={value}" for key, value in {**self.fixed, **values}.items())
        return str(parse_defense_spec(f"{self.name}:{settings}" if settings else self.name, "--defense"))


def parse_space(text: str) -> Space:
    """Read `NAME:key=low..high,key=a|b|c,key=value`.

    Args:
        text: as written after `--defense`.

    Returns:
        The space; every end and every choice has been tried as a value of the defense.

    Raises:
        UsageError: no such defense or setting, a value that it does not take, or a range that is none.
    """
    name, given = split_defense_spec(text, "--defense: ")
    fixed = {key: value for key, value in given.items() if "|" not in value and ".." not in value}
    settings = {**recipe_fields(), **settable(registry.defenses.get(name, "--defense"))}
    whole = {key for key, setting in settings.items() if setting.kind is int}
    axes = {k: _axis(f"--defense: {name}:{k}", v, k in whole) for k, v in given.items() if k not in fixed}
    space = Space(text, name, fixed, axes)
    for key, axis in space.axes.items():
        ends = [f"{int(end) if axis.whole else end:.12g}" for end in (axis.low, axis.high)]
        for value in axis.choices or ends:
            space._spec({key: value})
    space._spec({})
    return space


def _axis(where: str, value: str, whole: bool) -> Axis:
    """Return what one setting is varied over."""
    if "|" in value:
        choices = tuple(part.strip() for part in value.split("|"))
        if "" in choices or len(set(choices)) < len(choices):
            raise UsageError(f"{where}: expected different values a|b|c, got {value!r}. Write each of them once.")
        return Axis(choices)
    parts = [part.strip() for part in value.split("..")]
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"{where}: expected a range low..high of numbers, got {value!r}. Write 1e-4..1e-1, for example."
        )
    return Axis((), low, high, whole)
