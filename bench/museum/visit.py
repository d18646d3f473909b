"""Visit the museum: every exhibit and every broken attack, one report."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from bench.core.processes import die_with_parent
from bench.museum.attack_tests import run_attack_tests
from bench.museum.examine import IMAGES, THREAT, examine, examine_all
from bench.museum.folder import FOLDER, load_museum
from bench.museum.networks import Networks
from bench.running.machine import cores
from bench.trust.museum import Finding, MuseumReport

PER_PROCESS: Final = 8  # exhibits: a process begins with seconds of imports, and trains networks that exhibits share


@dataclass(frozen=True, slots=True)
class Place:
    """Where the exhibits of a visit and their data are.

    Attributes:
        exhibits: folder of their files.
        data: where `nets/` and `cifar10-jpeg/` are looked for; None: exhibits that need them are skipped.
    """

    exhibits: Path = FOLDER
    data: Path | None = None


def visit_museum(
    place: Place,
    *,
    quick: bool = False,
    images: int = IMAGES,
    processes: int | None = None,
    report_progress: Callable[[str], None] = lambda line: None,
) -> MuseumReport:
    """Examine the exhibits and run the tests of attacks on the broken ones.

    Args:
        place: of exhibits and data.
        quick: only the exhibits that every test run evaluates.
        images: test images per exhibit.
        processes: that examine exhibits side by side; None: one per core where each has `PER_PROCESS` exhibits.
        report_progress: is given one line per exhibit.

    Returns:
        What was found.
    """
    museum = load_museum(place.exhibits)
    started = time.process_time()
    exhibits = [e for e in museum.exhibits if e.quick or not quick]
    count = processes or min(cores(), len(exhibits) // PER_PROCESS)
    if count > 1:
        findings = _side_by_side(place, [e.name for e in exhibits], images, count, report_progress)
        elsewhere = sum(f.seconds for f in findings)
    else:
        findings = examine_all(exhibits, Networks(place.data), images=images, report_progress=report_progress)
        elsewhere = 0.0
    attacks = run_attack_tests(museum.attacks, Networks(place.data))
    return MuseumReport(findings, attacks, str(THREAT), time.process_time() - started + elsewhere)


def _side_by_side(
    place: Place, names: Sequence[str], images: int, processes: int, report_progress: Callable[[str], None]
) -> tuple[Finding, ...]:
    """Examine exhibits in several processes; the findings are in the order of the names."""
    context = multiprocessing.get_context("spawn")  # a fork has no threads of torch's pool
    found = []
    with ProcessPoolExecutor(processes, mp_context=context, initializer=die_with_parent) as pool:
        for finding in pool.map(partial(_examined, place, images), names):
            found.append(finding)
            report_progress(f"{finding.exhibit}: {finding.outcome}, {finding.seconds:.0f} s")
    return tuple(found)


_networks: dict[Place, Networks] = {}  # of this process, trained once


def _examined(place: Place, images: int, name: str) -> Finding:
    torch.set_num_threads(1)
    networks = _networks.setdefault(place, Networks(place.data))
    exhibit = next(e for e in load_museum(place.exhibits).exhibits if e.name == name)
    return examine(exhibit, networks, images=images)
