"""The time that is left: within a factor of two of the truth from the third cell on, on any machine; else nothing."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.config.suite_file import load_suite, suites
from bench.core.ticks import tick
from bench.running.progress import costs, ending
from bench.running.progress.ending import Ending
from bench.running.progress.estimate import Size, UnderWay, in_words, time_left
from bench.running.progress.events import Began, Event
from bench.running.progress.reporter import Reporter
from bench.running.progress.view import Overall
from bench.store.store import Store
from tests.bench.store import folders

RECORDED = json.loads(Path(__file__).with_name("digits_durations.json").read_text())
SLACK = 5.0  # seconds of the recorded machine: at the very end, a factor means nothing


def recorded() -> Iterator[tuple[str, Size, float]]:
    """Yield title, size by the counted passes alone, and duration of each cell, in the order of the run."""
    late = []
    for row in RECORDED["rows"]:
        label = f"{row['defense']} seed {row['seed']}"
        for key, seconds in row["seconds"].items():
            table, name = (
                ("training", row["defense"]) if key == "train" else ("evaluation", RECORDED["evaluations"][key])
            )
            images = RECORDED["images"][key]
            per_image = costs.passes(table, name, RECORDED["arguments"].get(key, {}))
            size = Size(f"train {name}" if key == "train" else name, per_image and per_image * images, images)
            cell = (f"{label}: {key}", size, seconds)
            if key.startswith("transfer"):
                late.append(cell)
            else:
                yield cell
    yield from late


def simulated(
    processes: int, speed: float, noise: Callable[[], float], pace: bool
) -> Iterator[tuple[float, float, float | None]]:
    """Run the recorded cells on so many processes; yield ended cells, time, end and estimate."""
    cells = list(recorded())
    sizes = {title: size for title, size, _ in cells}
    waiting = [(title, seconds * speed * noise()) for title, _, seconds in cells]
    free = [0.0] * processes
    spans: dict[str, tuple[float, float]] = {}
    for title, seconds in waiting:
        start = heapq.heappop(free)
        spans[title] = (start, start + seconds)
        heapq.heappush(free, start + seconds)
    end = max(free)
    moments = sorted(finish for _, finish in spans.values())
    for at, following in zip(moments, [*moments[1:], end], strict=True):
        for now in (at, (at + following) / 2):
            ended = {t: b - a for t, (a, b) in spans.items() if b <= now}
            under_way = {
                t: UnderWay(now - a, (now - a) / (b - a) if pace else 0.0)
                for t, (a, b) in spans.items()
                if a <= now < b
            }
            yield len(ended), now, end, time_left(sizes, ended, under_way, processes)


@pytest.mark.parametrize("pace", [True, False], ids=["cells say how far they are", "they do not"])
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("speed", [0.2, 1.0, 40.0])
def test_a_first_run_is_estimated_within_a_factor_of_two_from_the_third_cell_on(processes, speed, pace):
    draw = random.Random(0)
    ratios = []
    for ended, now, end, left in simulated(processes, speed, lambda: draw.uniform(0.75, 1.33), pace):
        if ended < 3 or now >= end:
            continue
        truth = end - now
        assert left is not None, f"after {ended} cells"
        low, high = truth / 2 - SLACK * speed, truth * 2 + SLACK * speed
        assert low <= left <= high, f"after {ended} cells: {left:.0f} s, of {truth:.0f} s"
        ratios.append(left / truth)
    assert len(ratios) > 200


def test_the_end_of_a_run_is_counted_and_then_stretched_as_it_goes() -> None:
    clock, processor = [0.0], [0.0]
    end = Ending(6.0, lambda: clock[0], lambda: processor[0], busy=lambda: 5.0)
    assert end.left == pytest.approx(30.0), "nothing was measured: as many wait for each core"
    clock[0], processor[0] = 100.0, 50.0
    assert end.left == pytest.approx(12.0), "ahead: 50 CPU seconds took 100"
    clock[0], processor[0] = 1000.0, 50.0
    assert end.left == pytest.approx(30.0), "this process waited, for a cluster say"
    clock[0], processor[0] = 100.0, 50.0
    end.begin()
    clock[0], processor[0] = 100.5, 50.5
    assert end.left == pytest.approx(5.5 * 100.5 / 50.5), "too early to be measured"
    clock[0], processor[0] = 106.0, 52.0
    assert end.left == pytest.approx(4.0 * 3), "2 CPU seconds of it took 6"
    clock[0], processor[0] = 106.0, 58.0
    assert end.left == pytest.approx(0.6), "longer than expected: a tenth"


def test_what_a_board_takes_is_as_measured() -> None:
    leaving = 1.8  # from the board's last file until the process has ended, which only a whole command has
    for rows, values, seconds in [(8, 34_000, 3.7), (20, 10_000_000, 10.2), (200, 12_000_000, 24.0)]:
        assert ending.cpu_seconds(rows, values) - leaving == pytest.approx(seconds, rel=0.2)


class Shown:
    """Keeps the time left that it is shown, by the name of the event."""

    def __init__(self) -> None:
        self.left: list[tuple[str, float | None]] = []
        self.cells: list[tuple[str, str]] = []

    def show(self, event: Event, overall: Overall) -> None:
        self.left.append((event.event, overall.left))
        self.cells = [(cell.title, cell.position) for cell in overall.cells]

    def stop(self) -> None:
        pass


def test_the_board_is_in_what_is_left_of_a_run() -> None:
    shown, processor = Shown(), [0.0]
    reporter = Reporter(shown)
    sizes = {title: Size("autoattack_l2", 10.0, 64) for title in "abcd"}
    end = Ending(6.0, lambda: 0.0, lambda: processor[0], busy=lambda: 1.0)
    reporter.begin(Began("s", "d", "cpu", "out", cells=4, cached=0, processes=2), sizes, end)
    for title in "abc":
        reporter.done(title, 20.0)
    assert shown.left[-1] == ("cell_done", pytest.approx(20.0 + 6.0))
    reporter.done("d", 20.0)
    assert shown.left[-1] == ("cell_done", pytest.approx(6.0)), "the board alone"
    with reporter.writing():
        processor[0] = 2.0
        tick("reading models", 1, 4)
        assert shown.left[-1] == ("writing", pytest.approx(4.0))
        assert shown.cells == [("the board", "reading models 1/4")]


def test_nothing_is_said_rather_than_something_false():
    sizes = {"a": Size("known", 10.0, 1), "b": Size("known", 10.0, 1), "c": Size("unknown", None, 1)}
    assert time_left(sizes, {}, {}, 1) is None, "nothing has ended"
    assert time_left(sizes, {"a": 1.0, "b": 1.0}, {}, 1) is None, "no cell of the last kind was ever timed"
    assert time_left(sizes, {"a": 1.0, "b": 1.0}, {"c": UnderWay(3.0, 0.5)}, 1) == pytest.approx(3.0), "its own pace"
    assert time_left(sizes, {"a": 1.0, "b": 1.0, "c": 9.0}, {}, 1) == 0.0
    twice = sizes | {"d": Size("unknown", None, 2)}
    assert time_left(twice, {"a": 1.0, "b": 1.0, "c": 9.0}, {}, 1) == pytest.approx(18.0), "twice the images"


def test_a_resumed_cell_has_less_to_do():
    sizes = {name: Size("train", 100.0, 1) for name in "abc"}
    left = time_left(sizes, {"a": 50.0, "b": 50.0}, {"c": UnderWay(0.0, 0.0, left=0.2)}, 1)
    assert left == pytest.approx(10.0)


def test_the_longest_cell_bounds_the_rest():
    sizes = {name: Size(name, units, 1) for name, units in zip("abcd", (10.0, 10.0, 1.0, 100.0), strict=True)}
    assert time_left(sizes, {"a": 10.0, "b": 10.0}, {}, 8) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (2.0, "2 s"),
        (38.0, "40 s"),
        (88.0, "90 s"),
        (100.0, "2 min"),
        (5000.0, "83 min"),
        (9000.0, "2.5 h"),
    ],
)
def test_durations_are_said_as_a_reader_would(seconds, words):
    assert in_words(seconds) == words


def test_every_cell_of_the_suites_that_ship_has_counted_passes():
    unknown = set()
    for name in (str(listed["name"]) for listed in suites()):
        suite = load_suite(name)
        for entry in suite.evaluations:
            if costs.passes("evaluation", entry.evaluation, entry.arguments) is None:
                unknown.add(entry.evaluation)
        unknown |= {spec.name for spec in suite.defenses if costs.passes("training", spec.name, {}) is None}
    assert unknown <= UNCOUNTED


UNCOUNTED = {"boundary"}  # it draws a picture of the plane, once per training


def test_what_a_cell_cost_last_time_comes_before_counted_passes(monkeypatch):
    network = ("convnet", (1, 8, 8), "cpu")
    known = costs.Known(costs.Work("mine", network, None, '{"steps": 2}', 100), 5.0)
    work = costs.Work("mine", network, None, '{"steps": 2}', 50)
    assert costs.units(work, [known]) == pytest.approx(2.5)
    assert costs.units(costs.Work("mine", network, None, '{"steps": 4}', 50), [known]) is None, "other work"
    assert costs.units(costs.Work("mine", ("vgg11", *network[1:]), None, '{"steps": 2}', 50), [known]) is None
    pgd = costs.Known(costs.Work("pgd_l2", network, 10.0, "a", 100), 5.0)
    other: Any = costs.Work("pgd_l2", network, 20.0, "b", 100)
    assert costs.units(other, [pgd]) == pytest.approx(10.0), "twice the passes"
    assert costs.units(costs.Work("curvature", network, 4.0, "", 100), [pgd]) == pytest.approx(2.0), "seconds per pass"
    assert costs.units(costs.Work("curvature", network, 4.0, "", 100), []) == pytest.approx(400.0), "passes"


def test_a_folder_beside_is_looked_into_and_left_alone(tmp_path: Path) -> None:
    model = {"backbone": "convnet", "shape": [1, 8, 8], "runtime": {"device": "cpu"}, "defense": "lcnn"}
    arguments: dict[str, Any] = {"eps": [0.5]}
    with Store.open(tmp_path / "earlier", create=True) as store:
        lease = folders.claimed(store, "t", "train", model)
        store.finish(lease, {"images": 100, "wall_seconds": 4.0})
        spec = {"evaluation": "trust", "arguments": arguments, "model": model, "runtime": {"device": "cpu"}}
        lease = folders.claimed(store, "e", "evaluation", spec)
        store.finish(lease, {"images": 10, "wall_seconds": 2.0})
    before = sorted(path.name for path in (tmp_path / "earlier").iterdir())
    found = list(costs.history(tmp_path / "new"))
    assert {(known.work.kind, known.work.images, known.seconds) for known in found} == {
        ("train lcnn", 100, 4.0),
        ("trust", 10, 2.0),
    }
    assert sorted(path.name for path in (tmp_path / "earlier").iterdir()) == before
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "bench.db").write_bytes(b"no store")
    assert len(list(costs.history(tmp_path / "new"))) == 2
