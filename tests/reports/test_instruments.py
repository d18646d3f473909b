"""What the page says of the instruments: recall on known adversarial examples, fakes and honest networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.cli.measured import save_measured
from bench.reports.board.instruments import Detection, read_detection, read_museum
from bench.reports.board.model import Board
from bench.reports.figures.detection import detection_figure
from bench.reports.figures.sheet import style
from bench.reports.formatting import show
from bench.reports.html import page, page_model
from bench.reports.html.trust_section import trust_section
from bench.trust.detection_curves import Curve, DetectionReport, MeasuredLevel
from bench.trust.maxout import Level
from bench.trust.museum import BrokenAttack, Finding, MuseumReport

BITS = (0.1, 1.0, 3.0, 2.0)  # the last level's planted class has no decoys


def curve(attack: str, own: bool, shares: tuple[float, ...], limit: float, beyond: float | None) -> dict[str, object]:
    return {
        "attack": attack,
        "settings": f"{attack}'s settings",
        "used_by_suites": own,
        "images_per_network": 50,
        "share": shares,
        "interval": [(max(0.0, s - 0.1), min(1.0, s + 0.1)) for s in shares],
        "limit_bits": limit,
        "limit_between": (0.1, beyond),
        "found": [],
    }


@pytest.fixture
def detection(tmp_path: Path) -> Detection:
    """Return a measurement as the command stores it: the suites use `short` and `long`; `longer` beats both."""
    path = tmp_path / "detection.json"
    curves = [
        curve("short", True, (1.0, 0.5, 0.1, 0.2), 0.2, 1.0),
        curve("weak", False, (0.9, 0.4, 0.0, 0.0), 0.0, 0.1),
        curve("long", True, (1.0, 0.96, 0.5, 0.9), 1.1, 3.0),
        curve("longer", False, (1.0, 1.0, 0.97, 1.0), 3.0, None),
    ]
    origin = {"command": "python -m bench doctor", "commit": "a" * 40, "date": "2026-01-02", "machine": "a CPU"}
    levels = [{"hardness_bits": b, "own_decoys": k < 3, "tau": 0.1} for k, b in enumerate(BITS)]
    record = {"levels": levels, "attacks": curves, "network_seeds": [0, 1, 2], "measured": origin | {"seconds": 3.0}}
    path.write_text(json.dumps(record), encoding="utf-8")
    found = read_detection(path)
    assert found is not None
    return found


MUSEUM = MuseumReport(
    (
        Finding("rounded", "fake", "Inputs are rounded.", "a paper", ("G1",), 64, grade="C", verdicts={"G1": "fail"}),
        Finding("silent", "fake", "Logits are constant.", "a paper", ("G1",), 64, grade="B", verdicts={"G1": "pass"}),
        Finding("plain", "honest", "A plain network.", "", (), 64, grade="B", verdicts={"G1": "pass"}),
    ),
    (BrokenAttack("no projection", ("ball",), {"ball": True}),),
    "l2 0.5",
)


def test_the_figure_leads_with_the_limit_of_the_suites_best_attack(board: Board, detection: Detection) -> None:
    with style():
        drawn = detection_figure(board, detection)
    assert (
        drawn.title
        == "The best attack of the suites, long, finds 95 % of what is known to be there up to 1.1 bits of hardness"
    )
    assert "150 images of 3 networks" in drawn.caption
    assert drawn.alt.endswith("short 0.2 bits, long 1.1 bits, longer at least 3.0 bits.")
    assert "weak" not in drawn.panels[0].drawing.svg, "neither used by the suites nor as far as they reach"


def test_its_table_has_every_attack_with_its_intervals(board: Board, detection: Detection) -> None:
    with style():
        drawn = detection_figure(board, detection)
    assert drawn.header == (
        "Attack", "0.10 bits", "1.00 bits", "3.00 bits", "2.00 bits, planted class without decoys", "Limit, bits",
    )  # fmt: skip
    lines = [[show(cell) for cell in line] for line in drawn.numbers]
    assert [line[0].split(" (")[0] for line in lines] == [
        "short, used by the suites", "weak", "long, used by the suites", "longer",
    ]  # fmt: skip
    assert lines[0][1:3] == ["100 [90, 100]", "50 [40, 60]"]
    assert [line[-1] for line in lines] == ["0.2", "0.0", "1.1", "at least 3.0"]


def test_the_section_says_limits_and_recall_in_a_line(
    board: Board, detection: Detection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_model, "read_detection", lambda: detection)
    monkeypatch.setattr(page_model, "read_museum", lambda: MUSEUM)
    html = page.render(board)
    section = html[html.index('<section id="trust"') :]
    section = section[: section.index("</section>")]
    assert "known to be there: short 0.2 bits, long 1.1 bits." in section
    assert "fakes seen: 1 of 2" in section
    assert "honest networks flagged: 0 of 1, broken attacks caught: 1 of 1" in section
    assert 'id="figure-detection"' in section
    assert "at commit aaaaaaaaaa on 2026-01-02" in section
    lines = {show(line[0]): [show(cell) for cell in line[2:]] for line in trust_section(board, None, MUSEUM).exhibits}
    assert lines["rounded"] == ["C", "G1", "G1", "seen"]
    assert lines["silent"] == ["B", "none", "G1", "missed"]
    assert lines["plain"] == ["B", "none", "none", "unflagged"]


def test_what_the_command_saves_is_what_the_page_reads(tmp_path: Path) -> None:
    path = tmp_path / "detection.json"
    levels = tuple(MeasuredLevel(Level(tau, own), 0.5, 0.5) for tau, own in ((0.1, True), (0.2, False)))
    curves = (Curve("pgd", np.array([[5, 4], [3, 0]]), 5, True, "defaults"),)
    save_measured(path, DetectionReport(levels, curves, (0, 1), ()).record(), 1.0)
    found = read_detection(path)
    assert found is not None
    assert found.levels[0].hardness_bits == 1.0
    assert [level.own_decoys for level in found.levels] == [True, False]
    assert (found.attacks[0].share, found.attacks[0].images_per_network) == ((0.9, 0.3), 5)
    assert found.limits == f"pgd {found.attacks[0].limit} bits"
    museum = tmp_path / "museum.json"
    save_measured(museum, MUSEUM.record(), 1.0)
    assert read_museum(museum) == MUSEUM


def test_what_is_not_shipped_is_not_shown(board: Board, tmp_path: Path) -> None:
    assert read_detection(tmp_path / "none.json") is None
    assert read_museum(tmp_path / "none.json") is None
    section = trust_section(board, None, None)
    assert (section.figure, section.exhibits) == (None, ())


def test_what_is_shipped_can_be_read() -> None:
    found, museum = read_detection(), read_museum()
    if found is not None:
        assert found.own
        assert all(len(curve.share) == len(found.levels) for curve in found.attacks)
    if museum is not None:
        assert museum.of_kind("fake")
        assert museum.of_kind("honest")
