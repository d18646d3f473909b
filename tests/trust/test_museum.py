"""The museum of fakes as a release gate: fakes are seen or refused, honest networks are left alone."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from bench.attacks.pgd import pgd
from bench.core.errors import UsageError
from bench.museum.attack_tests import TESTS, run_attack_tests
from bench.museum.examine import examine
from bench.museum.exhibit import FaultyAttack
from bench.museum.folder import DATA, FOLDER, load_museum
from bench.museum.networks import Networks
from bench.museum.visit import PER_PROCESS, Place, visit_museum
from bench.trust.museum import GROUPS, STORED, BrokenAttack, Finding, MuseumReport, read_report
from benchmarks.museum import DOCUMENT, with_tables

MUSEUM = load_museum()
PROTOCOL = {
    "logits_times_1000", "logits_times_1e6th", "softmax_output", "eight_bit_rounding", "detached_graph",
    "sign_flipped_gradient", "random_noise", "call_counter", "train_mode_batch_norm", "sine_shattering",
    "nan_off_the_grid", "purification_loop", "hard_lookup",
}  # fmt: skip
COURSE = {
    "blurred_inputs", "softmax_temperature", "discretised_inputs", "binarised_inputs", "label_smoothing",
    "jump_activations", "majority_vote", "random_neurons", "random_transforms", "noise_injection",
    "nearest_neighbours", "merged_features",
}  # fmt: skip
HONEST = {"plain", "adversarially_trained", "lcnn", "lcnn_gradreg", "wong2018-l2-36", "oval-base", "sdp-adv", "sdp-mix"}


@pytest.fixture(scope="module")
def stored():
    """The run that is shipped; `doctor --museum --save` and `python -m benchmarks.museum` make it anew."""
    if not STORED.is_file():
        pytest.skip("no run of the museum is stored: python -m bench doctor --museum --save FILE")
    return read_report()


@pytest.fixture(scope="module")
def networks():
    folder = Path(os.environ.get("BENCH_TEST_DATA", DATA))
    return Networks(folder if folder.is_dir() else None)


def held(finding: Finding) -> None:
    """Fail with what is needed to see why."""
    if finding.skipped:
        pytest.skip(finding.skipped)
    assert not finding.wrong, (finding.outcome, finding.grade, finding.missed, finding.words, finding.refused)


@pytest.mark.parametrize("exhibit", [e for e in MUSEUM.exhibits if e.quick], ids=lambda e: e.name)
def test_a_quick_exhibit_is_seen_as_it_should_be(exhibit, networks):
    found = examine(exhibit, networks)
    held(found)
    if not STORED.is_file():
        return
    then = next((f for f in read_report().findings if f.exhibit == exhibit.name), None)
    if then is None:
        return  # `test_the_stored_run_is_complete` says so
    assert (then.outcome, then.grade, then.images) == (found.outcome, found.grade, found.images)
    for mine, theirs in ((found.clean, then.clean), (found.robust, then.robust)):
        assert (mine is None) == (theirs is None)
        assert mine is None or abs(mine - theirs) <= 0.1, "trained elsewhere, a few images differ"


@pytest.mark.slow
@pytest.mark.parametrize("exhibit", [e for e in MUSEUM.exhibits if not e.quick], ids=lambda e: e.name)
def test_an_exhibit_is_seen_as_it_should_be(exhibit, networks):
    held(examine(exhibit, networks))


@pytest.mark.parametrize("attack", MUSEUM.attacks, ids=lambda a: a.fault or "none")
def test_a_broken_attack_is_caught_by_the_tests_that_should_see_it(attack, networks):
    (found,) = run_attack_tests([attack], networks)
    assert not found.wrong, found


def test_our_own_pgd_passes_every_test_of_attacks(networks):
    def plain(model, x, y, **settings):
        return pgd(model, x, y, **{"random_start": False, "losses": ["ce"], **settings})

    (found,) = run_attack_tests([FaultyAttack("", plain)], networks)
    assert set(found.caught_by) == set(TESTS)
    assert not any(found.caught_by.values()), found


def test_the_stored_run_is_complete_and_in_the_document(stored):
    assert {f.exhibit for f in stored.findings} == {e.name for e in MUSEUM.exhibits}
    assert {a.fault for a in stored.attacks} == {a.fault for a in MUSEUM.attacks}
    expected = {e.name: e.seen_by for e in MUSEUM.exhibits}
    assert {f.exhibit: f.expected for f in stored.findings} == expected, "store a new run"
    assert not stored.wrong
    assert not [f.exhibit for f in stored.findings if f.skipped]
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text) == text, "python -m benchmarks.museum"
    numbers = {6: "six", 8: "eight", 9: "nine"}
    fakes, weak, honest = (len(stored.of_kind(kind)) for kind in GROUPS)
    words = [f"{fakes} fakes", f"{numbers[weak]} ideas", f"{numbers[honest]} honest"]
    assert all(word in text for word in [*words, f"{numbers[len(stored.attacks) - 1]} attacks"]), "the first paragraph"


def test_the_stored_run_kept_to_its_time_and_the_document_has_it(stored):
    slow = {e.name for e in MUSEUM.exhibits if not e.quick}
    quick = stored.seconds - sum(f.seconds for f in stored.findings if f.exhibit in slow)
    assert stored.seconds < 2 * 600, "ten minutes on two cores"
    assert quick < 180, "three minutes on one"
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())
    assert f"took {stored.seconds:.0f} CPU-seconds" in text
    assert f"quick part, {len(MUSEUM.exhibits) - len(slow)} exhibits" in text
    assert f"took {quick:.0f} CPU-seconds" in text


def test_everything_that_was_promised_is_there():
    names = {e.name for e in MUSEUM.exhibits}
    assert names >= PROTOCOL | COURSE | HONEST
    assert {path.stem for path in FOLDER.glob("*.py")} >= PROTOCOL | COURSE, "one file each"
    assert {e.name for e in MUSEUM.exhibits if e.kind == "honest"} >= HONEST
    assert {e.name for e in MUSEUM.exhibits if e.kind == "weak"} == {
        "blurred_inputs", "label_smoothing", "merged_features",
        "declared_noise", "declared_transforms", "declared_neurons",
    }  # fmt: skip
    for exhibit in MUSEUM.exhibits:
        assert exhibit.idea.endswith("."), exhibit.name
        assert exhibit.source
        assert bool(exhibit.seen_by) == (exhibit.kind == "fake"), exhibit.name


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_an_exhibit_is_one_short_documented_file(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) <= 80


PLAIN = '''"""Honest: a linear network."""

from torch import nn

from bench.museum.exhibit import {kind}


@{declared}
def linear(networks):
    """Classify by one layer, untrained."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
'''


def test_adding_an_exhibit_is_one_file(tmp_path):
    declared = 'honest(source="here")'
    (tmp_path / "first.py").write_text(PLAIN.format(kind="honest", declared=declared))
    (tmp_path / "_helper.py").write_text("raise RuntimeError")
    (exhibit,) = load_museum(tmp_path).exhibits
    assert (exhibit.name, exhibit.kind, exhibit.idea) == ("linear", "honest", "Classify by one layer, untrained.")
    (tmp_path / "second.py").write_text(PLAIN.format(kind="honest", declared=declared))
    with pytest.raises(UsageError, match=r"second.py: expected a new name, got a second 'linear'. Rename it."):
        load_museum(tmp_path)


def test_exhibits_are_examined_alike_side_by_side_and_one_after_the_other(tmp_path):
    text = PLAIN.format(kind="refused", declared='refused(source="here")')
    for name, width in (("one", "1"), ("seven", "7")):  # fewer logits than classes: refused at the door
        (tmp_path / f"{name}.py").write_text(text.replace("linear", name).replace("64, 10", f"64, {width}"))
    lines: list[str] = []
    visits = [visit_museum(Place(tmp_path), processes=n, report_progress=lines.append).findings for n in (1, 2)]
    first, second = ([replace(f, seconds=0.0) for f in findings] for findings in visits)
    assert first == second
    assert [(f.exhibit, f.outcome) for f in first] == [("one", "refused"), ("seven", "refused")]
    assert [line.partition(":")[0] for line in lines] == 2 * ["one", "seven"]
    assert len(MUSEUM.exhibits) >= 2 * PER_PROCESS, "two cores examine the whole in two processes"


def test_without_a_checkout_it_says_so(tmp_path, cli):
    with pytest.raises(UsageError, match=r"A wheel has none: run it from a checkout, or give --exhibits DIR."):
        load_museum(tmp_path / "museum")
    finished = cli("doctor", "--museum", "--exhibits", tmp_path / "museum")
    assert finished.code == 2
    assert "expected a folder of exhibits, got 'museum'" in finished.err


@pytest.mark.parametrize("option", [["--quick"], ["--exhibits", "."]])
def test_options_of_the_museum_need_it(option, cli):
    finished = cli("doctor", *option)
    assert finished.code == 2
    assert "Add --museum." in finished.err


def test_a_fake_that_is_not_refused_fails_the_command(tmp_path, cli):
    (tmp_path / "pretends.py").write_text(PLAIN.format(kind="refused", declared='refused(source="here")'))
    (tmp_path / "detached.py").write_text((FOLDER / "detached_graph.py").read_text())
    finished = cli("doctor", "--museum", "--exhibits", tmp_path)
    assert finished.code == 1
    assert "not as it should be: linear" in finished.out
    assert "detached_graph: refused: evaluation pgd_l2" in finished.out
    assert "fakes seen: 1 of 2, weak defenses measured: 0 of 0, honest networks flagged: 0 of 0" in finished.out


def finding(kind="fake", **facts) -> Finding:
    return Finding("name", kind, "Do it.", "here", **{"images": 100, **facts})


CASES = {
    "seen": finding(expected=("G3",), verdicts={"G3": "fail"}, grade="C", robust=0.9, adaptive=0.0),
    "refused": finding(expected=("door",), refused="two calls differ"),
    "missed": finding(expected=("G3",), verdicts={"G3": "pass", "E2": "fail"}, grade="C", robust=0.9, adaptive=0.0),
    "overstated": finding(expected=("G2",), verdicts={"G2": "fail"}, grade="B", robust=0.9, adaptive=0.8),
    "measured": finding("weak", grade="B", robust=0.3, adaptive=0.29),
    "unflagged": finding("honest", verdicts={"G3": "pass"}, grade="B", robust=0.9),
    "flagged": finding("honest", verdicts={"G3": "fail"}, grade="C", robust=0.9),
    "skipped": finding("honest", skipped="no data"),
}


@pytest.mark.parametrize("outcome", CASES)
def test_the_outcome_of_a_finding(outcome):
    assert CASES[outcome].outcome == outcome
    assert CASES[outcome].wrong == (outcome in ("missed", "overstated", "flagged"))


def test_what_is_not_assessable_was_not_seen():
    one = finding(expected=("G3",), verdicts={"G3": "not assessable"}, grade="C", robust=0.5)
    assert one.outcome == "missed"


@pytest.mark.parametrize("kind", ["weak", "honest"])
def test_refusing_a_network_that_hides_nothing_is_a_fault(kind):
    assert finding(kind, refused="no gradients").outcome == "flagged"


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (BrokenAttack("no box", ("judge",), {"judge": True, "other": False}), False),
        (BrokenAttack("no box", ("judge",), {"judge": False, "other": True}), True),
        (BrokenAttack("", (), {"judge": False, "other": False}), False),
        (BrokenAttack("", (), {"judge": False, "other": True}), True),
    ],
)
def test_a_broken_attack_must_be_seen_by_the_named_tests(attack, wrong):
    assert attack.wrong == wrong


def test_a_report_survives_storing(tmp_path):
    attacks = (BrokenAttack("no box", ("judge",), {"judge": True}),)
    order = ("fake", "weak", "honest")
    findings = sorted(CASES.values(), key=lambda f: order.index(f.kind))
    report = MuseumReport(tuple(findings), attacks, "l2 0.5", 12.0)
    path = tmp_path / "museum.json"
    path.write_text(json.dumps(report.record()))
    assert read_report(path) == report
    assert report.wrong == ("name", "name", "name")
    assert report.checks == ("door", "G3", "E2", "G2")
