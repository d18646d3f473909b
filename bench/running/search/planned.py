"""A search before any of it is done: which trials, which evaluations, and where the results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.config.search_space import Space, parse_space
from bench.config.suite_file import load_suite
from bench.core import discovery
from bench.core.errors import UsageError
from bench.core.files import safe_name
from bench.running.prepare import Options
from bench.running.search.objective import Objective, objective


@dataclass(frozen=True)
class Search:
    """A search, before any of it is done.

    Attributes:
        options: of the run that trains and measures every trial.
        spaces: each with the specs to try.
        sought: what counts.
        seeds: training seeds of every trial.
    """

    options: Options
    spaces: Mapping[Space, tuple[str, ...]]
    sought: Objective
    seeds: tuple[int, ...]


def plan_search(
    options: Options, texts: Sequence[str], budget: int, by: str | None, floors: Mapping[str, float], draws: int = 0
) -> Search:
    """Plan a search: which trials, which evaluations of the suite, and where the results go.

    Args:
        options: of the command; the suite's defenses and evaluations are replaced.
        texts: defenses and what is varied in them.
        budget: trials of each.
        by: see `objective`, like the next one.
        floors: column to its least value.
        draws: seed of the trials' settings.

    Returns:
        The plan; nothing of it is done yet.

    Raises:
        UsageError: a name or a value is wrong, nothing is varied, or a defense has too few settings.
    """
    for path in options.included:
        discovery.include(path, options.hang_limit)
    suite = load_suite(options.suite, options.data_dir)
    sought = objective(suite, by, floors)
    spaces = {space: space.trials(budget, draws) for space in map(parse_space, texts)}
    if not any(space.axes for space in spaces):
        raise UsageError(
            f"--defense: expected something to vary, got {', '.join(texts)}. Write {texts[0].partition(':')[0]}:"
            "key=low..high or key=a|b|c."
        )
    specs = tuple(dict.fromkeys(spec for tried in spaces.values() for spec in tried))
    seeds = options.narrow.get("seeds") or suite.seeds[:1]
    narrow = {**options.narrow, "defenses": specs, "evaluations": sought.evaluations, "seeds": seeds}
    out = options.out or Path("results") / safe_name(f"{suite.name}-search")
    chosen = replace(options, narrow=narrow, out=out, held_out=options.held_out or 0, only=True)
    return Search(chosen, spaces, sought, tuple(seeds))
