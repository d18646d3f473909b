"""The decorators that register a defense, an attack or an evaluation.

A decorated function's name is the key of the registry. A defense or an evaluation is returned unchanged; an attack
is returned with its arguments checked (`guarded`), while suites call the function as written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from bench.core.arguments import whole
from bench.core.column_names import check_column_names
from bench.core.direct_call import guarded
from bench.core.errors import UsageError
from bench.core.recipe import Recipe
from bench.core.records import (
    Adaptive,
    Attack,
    Automatic,
    Column,
    Defense,
    Evaluation,
    Need,
    Summary,
    Track,
)
from bench.core.registry import attacks, defenses, evaluations, source_file
from bench.core.text import is_link, one_line, several_lines

F = TypeVar("F", bound=Callable[..., Any])


def defense(
    *,
    source: str,
    recipe: Recipe | None = None,
    version: int = 1,
    adaptive: Adaptive | None = None,
    bibtex: str = "",
    title: str = "",
    link: str = "",
    venue: str = "",
    year: int | None = None,
    randomised: bool = False,
    depends_on: Sequence[str | Path] = (),
) -> Callable[[F], F]:
    """Register a defense: `f(num_classes, in_shape, backbone, *, <hyper-parameters>) -> nn.Module`.

    Args:
        source: paper and place, e.g. "Srinivas et al. 2022, eq. (5)".
        recipe: what differs from the suite's recipe, usually the loss.
        version: raise it by hand when the method changes; its cells are then computed anew.
        adaptive: the author's own attack on the defense.
        bibtex: how to cite it.
        title: its name for readers, e.g. "Adversarial training"; "": the function's name.
        link: of its paper, http or https; the board links to it.
        venue: where the paper appeared, e.g. "NeurIPS".
        year: when it appeared.
        randomised: declare that the network answers differently at each call, in eval mode too (noise, random
            transforms, dropout): it is judged by votes over draws, attacked in expectation over them, and ranked apart.
            An undeclared one is refused.
        depends_on: files that the method reads at run time, relative to its own file; when one is edited its cells
            are computed anew. Imported modules need not be named.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        UsageError: the function's signature is not the one above, there is no such file, the link is none, or the
            year is no year.
    """

    def register(function: F) -> F:
        check_signature(function, 3, "num_classes, in_shape, backbone")
        if link and not is_link(link):
            raise UsageError(
                f"{function.__name__}: link: expected an address that begins with https:// or http://, got {link!r}. "
                "Link to the paper's page."
            )
        entry = Defense(
            name=function.__name__,
            function=function,
            source=source,
            version=whole(f"{function.__name__}: version", version),
            recipe=recipe or Recipe(),
            adaptive=adaptive,
            bibtex=several_lines(bibtex),
            title=one_line(title, 100),
            link=link,
            venue=one_line(venue, 100),
            year=None if year is None else whole(f"{function.__name__}: year", year, 1900, 2100),
            randomised=randomised,
            depends_on=_existing(function, depends_on),
        )
        defenses.add(entry)
        return function

    return register


def attack(
    *,
    source: str,
    version: int = 1,
    norms: tuple[str, ...] = ("l2", "linf"),
    chunk: int = 500,
    extra: Mapping[str, Column] | None = None,
    adaptive: bool = False,
    ranks: int = 0,
    csv_interval: bool = True,
    gradients: bool = True,
    randomised: Mapping[str, object] | None = None,
    depends_on: Sequence[str | Path] = (),
) -> Callable[[F], F]:
    """Register an attack: `f(model, x, y, *, eps, norm, seed, …) -> x_adv`, both (B, C, H, W) in [0, 1].

    Every norm becomes an evaluation `<name>_<norm>`.

    Args:
        source: paper and place.
        version: raise it by hand when the meaning changes; its cells are then computed anew.
        norms: norms that the function accepts as `norm`, of "l2" and "linf".
        chunk: images per stored chunk (at most 500); smaller for an attack of thousands of passes per image.
        extra: further per-example numbers that the attack puts into its `trace`, one per example, by name; each is
            a column `<name>_<norm>_<eps>_<key>` of kind "flag", "count" or "value".
        adaptive: the evaluation takes the worst case with the attack that the defense's author declares.
        ranks: preference as the ranking column among the attacks on one threat; 0 never ranks.
        csv_interval: whether leaderboard.csv holds the ends of its robust accuracy's interval.
        gradients: whether it follows gradients; it is then refused on models that give none.
        randomised: arguments that take the place of the suite's on a randomised model, where every gradient is a mean
            over draws already.
        depends_on: files that the attack reads at run time, relative to its own file.

    Returns:
        The decorator, which returns the function with its arguments checked (see `guarded`).

    Raises:
        UsageError: the function's signature is not the one above, an extra column holds text or has a name that
            there cannot be, `trace` is missing, or there is no file of `depends_on`.
    """
    columns = dict(extra or {})

    def register(function: F) -> F:
        check_signature(function, 3, "model, x, y")
        check_column_names(f"attack {function.__name__}", columns)
        if text := [name for name, column in columns.items() if column.kind == "text"]:
            raise UsageError(
                f"attack {function.__name__}: expected extra columns of kind flag, count or value, got text in "
                f"{text[0]!r}. Return numbers."
            )
        if columns and "trace" not in inspect.signature(function).parameters:
            raise UsageError(
                f"attack {function.__name__}: expected the argument `trace`, a dict in which it returns "
                f"{', '.join(columns)}, got none. Add `trace: dict | None = None`."
            )
        entry = Attack(
            name=function.__name__,
            function=function,
            source=source,
            version=whole(f"{function.__name__}: version", version),
            norms=norms,
            chunk=whole(f"{function.__name__}: chunk", chunk, 1, 500),
            extra=columns,
            adaptive=adaptive,
            ranks=ranks,
            csv_interval=csv_interval,
            gradients=gradients,
            randomised=dict(randomised or {}),
            depends_on=_existing(function, depends_on),
        )
        attacks.add(entry)
        return cast(F, guarded(function))

    return register


def evaluation(
    *,
    source: str,
    columns: Mapping[str, Column],
    version: int = 1,
    chunk: int = 500,
    summary: Summary | None = None,
    depends_on: Sequence[str | Path] = (),
    needs: tuple[Need, ...] = (),
    automatic: Automatic = "never",
    gradients: bool = False,
    tracks: tuple[Track, ...] = ("deterministic",),
) -> Callable[[F], F]:
    """Register an evaluation: `f(model, x, y, *, seed, …) -> {column: one value per example}`.

    Args:
        source: paper and place, or the page of the protocol.
        columns: every column that it returns, by pattern of its name.
        version: raise it by hand when the meaning changes.
        chunk: images per stored chunk (at most 500).
        summary: `summary(model, device) -> dict` of plain data about the model as a whole, if there is any.
        depends_on: files that the evaluation reads at run time, relative to its own file.
        needs: what it reads of other cells; it then takes the keyword argument `inputs: BatchInputs`.
        automatic: when a suite that does not name it gets it: "never", "stored" or "audit" (see `Evaluation`).
        gradients: whether it follows gradients; it is then refused on models that give none.
        tracks: of the models that it can measure: "deterministic", "randomised". A randomised model gives its decision
            without gradients and an estimate with them, see `bench.attacks.core.draws`.

    A function with the keyword argument `adaptive: Adaptive | None = None` is given what the defense's author declares.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        UsageError: the function's signature is not the one above, a column's name is reserved, or there is no file
            of `depends_on`.
    """

    def register(function: F) -> F:
        check_signature(function, 3, "model, x, y")
        board = [column.board for column in columns.values() if column.board is not None]
        check_column_names(f"evaluation {function.__name__}", columns, board)
        if needs and "inputs" not in inspect.signature(function).parameters:
            raise UsageError(
                f"{function.__name__} in {source_file(function)}: expected the keyword argument `inputs`, "
                "through which an evaluation with needs reads other cells, got none. Add `inputs: BatchInputs`."
            )
        entry = Evaluation(
            name=function.__name__,
            function=function,
            source=source,
            version=whole(f"{function.__name__}: version", version),
            columns=dict(columns),
            chunk=whole(f"{function.__name__}: chunk", chunk, 1, 500),
            summary=summary,
            adaptive="adaptive" in inspect.signature(function).parameters,
            depends_on=_existing(function, depends_on),
            needs=needs,
            automatic=automatic,
            gradients=gradients,
            tracks=tracks,
        )
        evaluations.add(entry)
        return function

    return register


def check_signature(function: Callable[..., Any], positional: int, expected: str) -> None:
    """Refuse a function whose positional arguments are not the expected ones, or whose rest is not keyword-only.

    Args:
        function: the function to register.
        positional: number of positional parameters that it must have.
        expected: their names, for the message.

    Raises:
        UsageError: the signature is another.
    """
    parameters = list(inspect.signature(function).parameters.values())
    kinds = [p.kind for p in parameters]
    positional_kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = sum(k in positional_kinds for k in kinds)
    if found != positional or inspect.Parameter.VAR_POSITIONAL in kinds:
        raise UsageError(
            f"{function.__name__} in {source_file(function)}: expected arguments ({expected}, *, keyword-only …), "
            f"got ({', '.join(p.name for p in parameters)}). Put a `*` before the hyper-parameters."
        )


def _existing(function: Callable[..., Any], paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """Return paths that are relative to a function's file as absolute ones.

    Raises:
        UsageError: one is no file.
    """
    found = tuple(Path(source_file(function)).resolve().parent / path for path in paths)
    if missing := [path for path in found if not path.is_file()]:
        raise UsageError(
            f"{function.__name__}: depends_on: expected files, got {str(missing[0])!r}, which is none. "
            "Paths are relative to the function's own file."
        )
    return found
