"""Visit the museum: every exhibit and every broken attack, one report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bench.museum.attack_tests import run_attack_tests
from bench.museum.examine import IMAGES, THREAT, examine_all
from bench.museum.folder import Museum, load_museum
from bench.museum.networks import Networks
from bench.trust.museum import MuseumReport


def visit_museum(
    museum: Museum | None = None,
    *,
    folder: Path | None = None,
    quick: bool = False,
    images: int = IMAGES,
    report_progress: Callable[[str], None] = lambda line: None,
) -> MuseumReport:
    """Examine the exhibits and run the tests of attacks on the broken ones.

    Args:
        museum: what to visit; None: what the checkout's folder holds.
        folder: where `nets/` and `cifar10-jpeg/` are looked for; None: exhibits that need them are skipped.
        quick: only the exhibits that every test run evaluates.
        images: test images per exhibit.
        report_progress: is given one line per exhibit.

    Returns:
        What was found.
    """
    museum = museum or load_museum()
    started = time.process_time()
    networks = Networks(folder)
    exhibits = [e for e in museum.exhibits if e.quick or not quick]
    findings = examine_all(exhibits, networks, images=images, report_progress=report_progress)
    attacks = run_attack_tests(museum.attacks, networks)
    return MuseumReport(findings, attacks, str(THREAT), time.process_time() - started)
