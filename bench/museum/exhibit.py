"""What an exhibit of the museum is, and how a file declares one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.networks import Networks
from bench.trust.museum import DOOR, Kind

DIGITS: Final = "digits"


class Build(Protocol):
    """A function `name(networks) -> nn.Module`."""

    __name__: str

    def __call__(self, networks: Networks) -> nn.Module:
        """Return the network, trained, in eval mode."""
        ...


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One network of the museum and what must be seen of it.

    Attributes:
        name: the function's name.
        kind: "fake" hides from attacks or breaks the measurement, "weak" is a defense that does not work and whose low
            robust accuracy must come out, "honest" must keep grade A or B.
        build: `build(networks) -> nn.Module`, trained in seconds.
        idea: first line of the function's docstring.
        source: where the idea comes from.
        seen_by: names of the checks that must fail; `DOOR` where a model contract must refuse it.
        adaptive: the attack that finds the true robust accuracy; None: the standard attacks do.
        data: name of the data set whose test images it classifies.
        quick: whether it belongs to the part that every test run evaluates.
    """

    name: str
    kind: Kind
    build: Callable[[Networks], nn.Module]
    idea: str
    source: str
    seen_by: tuple[str, ...] = ()
    adaptive: Adaptive | None = None
    data: str = DIGITS
    quick: bool = False


def fake(
    *, source: str, seen_by: tuple[str, ...], adaptive: Adaptive | None = None, quick: bool = False
) -> Callable[[Build], Exhibit]:
    """Declare a fake: `@fake(source=…, seen_by=("G3",))` over a function `name(networks) -> nn.Module`.

    Args:
        source: where the idea comes from.
        seen_by: names of the checks that must fail on it.
        adaptive: the attack that finds the true robust accuracy.
        quick: whether every test run evaluates it.

    Returns:
        The decorator, which gives an exhibit.
    """
    return _declare("fake", source, seen_by, adaptive, quick)


def refused(*, source: str, adaptive: Adaptive | None = None) -> Callable[[Build], Exhibit]:
    """Declare a fake that the model contract must refuse, before anything is measured.

    Args:
        source: where the idea comes from.
        adaptive: the attack that finds the true robust accuracy.

    Returns:
        The decorator, which gives an exhibit.
    """
    return _declare("fake", source, (DOOR,), adaptive, quick=True)


def weak(*, source: str, adaptive: Adaptive | None = None, quick: bool = False) -> Callable[[Build], Exhibit]:
    """Declare a defense that hides nothing and does not work: its low robust accuracy must come out.

    Args:
        source: where the idea comes from.
        adaptive: an attack that might find more.
        quick: whether every test run evaluates it.

    Returns:
        The decorator, which gives an exhibit.
    """
    return _declare("weak", source, (), adaptive, quick)


def honest(*, source: str, quick: bool = False) -> Callable[[Build], Exhibit]:
    """Declare a network that must not be flagged.

    Args:
        source: where the idea comes from.
        quick: whether every test run evaluates it.

    Returns:
        The decorator, which gives an exhibit.
    """
    return _declare("honest", source, (), None, quick)


def _declare(
    kind: Kind, source: str, seen_by: tuple[str, ...], adaptive: Adaptive | None, quick: bool
) -> Callable[[Build], Exhibit]:
    def declare(build: Build) -> Exhibit:
        idea = (build.__doc__ or "").strip().partition("\n")[0]
        return Exhibit(build.__name__, kind, build, idea, source, seen_by, adaptive, quick=quick)

    return declare


@dataclass(frozen=True, slots=True)
class FaultyAttack:
    """An attack with one thing wrong, and the tests that must see it.

    Attributes:
        fault: what is wrong; "" for the same attack without a fault.
        function: `attack(model, x, y, *, eps, norm, seed, steps) -> x_adv`.
        seen_by: names of the tests in `bench.museum.attack_tests`.
    """

    fault: str
    function: Callable[..., Tensor]
    seen_by: tuple[str, ...] = ()
