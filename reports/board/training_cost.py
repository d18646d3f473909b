"""What a training costs relative to the baseline's: seed by seed, and only where the machine was quiet enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from bench.reports import formatting

Info: TypeAlias = Mapping[str, Any]  # what the store knows of a training or an evaluation
QUIET: Final = 0.9  # least share of the wall clock in which a training thread ran, for its time to be believed
SPREAD: Final = 0.2  # largest relative difference of the seeds' ratios, likewise


@dataclass(frozen=True)
class RelativeTime:
    """Training time of one defense over another's.

    Attributes:
        by_seed: seed to the ratio of the two trainings with it.
        doubt: why no ratio is given, "" if one is.
    """

    by_seed: dict[int, float] = field(default_factory=dict)
    doubt: str = ""

    @property
    def value(self) -> float | None:
        """Mean of the seeds' own ratios; None in doubt."""
        return None if self.doubt else float(np.mean(list(self.by_seed.values())))


def seconds(info: Info) -> float | None:
    """Return the time that a computation itself needed: a GPU's own time, else CPU time.

    Args:
        info: of a training or an evaluation.

    Returns:
        Seconds; None if they were not stored, or other programs had the GPU, whose time is then in them too.
    """
    return None if info.get("device_programs", 1) > 1 else _clock(info)


def _clock(info: Info) -> float | None:
    found: float | None = info.get("device_seconds", info.get("cpu_seconds"))
    return found


def relative_time(own: Mapping[int, Info], base: Mapping[int, Info], base_name: str) -> RelativeTime:
    """Return the training time of a defense over that of another in the same run.

    Each seed is compared with the same seed. No ratio is given where a thread that trained on a CPU ran less than 90 %
    of the time by the wall clock, because other work then also slowed what it did run; where other programs had the
    GPU, or it is not known whether they had; where the two trained on different devices or numbers of threads or
    processes; and where the seeds' ratios differ by more than 20 %.

    Args:
        own: seed to the stored facts of a finished training.
        base: likewise of the other defense.
        base_name: its name.
    """
    both = [seed for seed in own if seed in base]
    times = {s: (a, b) for s in both if (a := _clock(own[s])) is not None and (b := _clock(base[s]))}
    if not times:
        return RelativeTime({}, f"no seed of it and {base_name} has a stored training time")
    by_seed = {seed: a / b for seed, (a, b) in times.items()}
    return RelativeTime(by_seed, _doubt(by_seed, own, base, base_name))


def _doubt(by_seed: Mapping[int, float], own: Mapping[int, Info], base: Mapping[int, Info], base_name: str) -> str:
    """Return why ratios of training times are not to be believed, "" if they are."""
    for seed in by_seed:
        if any(own[seed].get(k) != base[seed].get(k) for k in ("device", "threads", "processes")):
            return (
                f"with seed {seed} it and {base_name} trained on different devices or numbers of threads or processes"
            )
    for who, infos in ((f"{base_name}, by whose time it is divided,", base), ("its own training", own)):
        for seed in by_seed:
            if (doubt := _shared_gpu(infos[seed])) is not None:
                return f"{who} with seed {seed}: {doubt}"
        least, seed = min((_share(infos[seed]), seed) for seed in by_seed)
        if least < QUIET:
            return f"the machine was busy: {who} ran {100 * least:.0f} % of the time with seed {seed}"
    low, high = min(by_seed.values()), max(by_seed.values())
    if high > (1 + SPREAD) * low:
        ratios = formatting.listing([f"{r:.2f}" for r in by_seed.values()])
        return f"the seeds' ratios of time disagree: {ratios}"
    return ""


def _shared_gpu(info: Info) -> str | None:
    """Return why a training's time on a GPU is not to be believed, None if it is, or the training was on a CPU."""
    if "device_seconds" not in info:
        return None
    programs = info.get("device_programs")
    if programs is None:
        return "whether other programs had the GPU is not known"
    return None if programs == 1 else f"{programs} programs had the GPU"


def _share(info: Info) -> float:
    """Return the share of a training's wall-clock time in which its thread ran; 1 on a GPU, for which it waits."""
    if "device_seconds" in info or not info.get("wall_seconds"):
        return 1.0
    return float(info.get("thread_seconds", info.get("cpu_seconds", 0.0))) / float(info["wall_seconds"])


def operations(info: Info) -> float | None:
    """Return the counted floating-point operations of a whole training; None if they could not be counted.

    Args:
        info: of the training.
    """
    per_image, images = info.get("flops_per_image"), info.get("images")
    return None if per_image is None or images is None else float(per_image) * float(images)
