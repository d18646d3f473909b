"""One page over several boards, and opening a board in the browser."""

from __future__ import annotations

import json
import re
import shutil
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest

from bench.core.errors import IntegrityError, UsageError
from bench.reports import write
from bench.reports.html import page
from bench.reports.html.index_page import board_line, boards_of, index_html


class Links(HTMLParser):
    """All elements with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, fabricate: ModuleType) -> Path:
    """Return a folder of two result folders, of which one name needs quoting."""
    top = tmp_path_factory.mktemp("results")
    for name in ("digits", "my board"):
        fabricate.make_store(top / name, fabricate.make_plan(evaluations=("accuracy", "pgd_l2")))
        write(top / name)
    change(top / "my board" / "manifest.json", ("data", "name"), "cifar10-jpeg")
    change(top / "my board" / "manifest.json", ("created",), "2031-01-02T03:04:05+00:00")
    return top


def change(path: Path, keys: tuple[str, ...], value: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    part: Any = data
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(data), encoding="utf-8")


def test_each_board_is_a_line_with_its_best_row(results: Path) -> None:
    line = board_line(results / "digits", results / "index.html")
    data = json.loads((results / "digits" / "leaderboard.json").read_text(encoding="utf-8"))
    first = data["rows"][0]
    assert (line.best, line.n, line.rows) == (first["defense"], first["n"], len(data["rows"]))
    cell = first["cells"][data["ranking"]]
    assert line.reached.startswith(f"{100 * cell['value']:.1f}\u00a0% [{100 * cell['low']:.1f}, ")
    assert line.tied == sum(row["rank_low"] == 1 for row in data["rows"]) - 1
    assert line.threat == "ℓ₂\u00a0≤\u00a00.5"
    assert line.link == "digits/leaderboard.html"


def test_links_lead_to_the_pages_and_the_newest_comes_first(results: Path, tmp_path: Path) -> None:
    for target in (results / "index.html", tmp_path / "elsewhere.html"):
        html = index_html(boards_of([results]), target)
        links = [attrs["href"] for tag, attrs in Links(html).found if tag == "a"]
        assert [(target.parent / unquote(link)).resolve() for link in links] == [
            (results / name / "leaderboard.html").resolve() for name in ("my board", "digits")
        ]
    assert 'value="cifar10-jpeg"' in html
    assert index_html(boards_of([results]), target) == html, "the same boards, the same bytes"


def test_the_index_loads_nothing_and_runs_its_own_script_alone(results: Path) -> None:
    html = index_html(boards_of([results]), results / "index.html")
    (policy,) = [a["content"] for tag, a in Links(html).found if a.get("http-equiv") == "Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert policy == page.policy(script)
    assert not [a for _, a in Links(html).found if "src" in a or a.get("href", "").startswith("http")]


def test_hostile_names_stay_inert(results: Path, tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script>\x1b[31m'
    shutil.copytree(results / "digits", tmp_path / "x")
    change(tmp_path / "x" / "manifest.json", ("data", "name"), hostile)
    change(tmp_path / "x" / "leaderboard.json", ("suite",), hostile)
    html = index_html([tmp_path / "x"], tmp_path / "index.html")
    assert html.count("<script>") == 1
    assert "\x1b" not in html


def test_folders_of_folders_are_searched_and_others_are_named(results: Path, tmp_path: Path) -> None:
    assert boards_of([results]) == [results / "digits", results / "my board"]
    assert boards_of([results / "digits", results]) == [results / "digits", results / "my board"]
    with pytest.raises(UsageError, match=r"expected a folder with leaderboard\.json, .* Run python -m bench report"):
        boards_of([tmp_path])


@pytest.mark.parametrize("spoilt", ["[]", "{}", "{", '{"suite": "a", "ranking": "x", "rows": [{"rank": 1}]}'])
def test_spoilt_files_are_named(results: Path, tmp_path: Path, spoilt: str) -> None:
    shutil.copytree(results / "digits", tmp_path / "x")
    (tmp_path / "x" / "leaderboard.json").write_text(spoilt, encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"x.*: expected .* Run python -m bench report --out"):
        index_html([tmp_path / "x"], tmp_path / "index.html")


def test_a_board_without_a_ranking_has_a_line(results: Path, tmp_path: Path, fabricate: ModuleType) -> None:
    fabricate.make_store(tmp_path / "x", fabricate.make_plan(evaluations=("accuracy",)))
    write(tmp_path / "x")
    line = board_line(tmp_path / "x", tmp_path / "index.html")
    assert (line.best, line.reached, line.threat) == ("", "", "")
    assert "nothing ranked" in index_html([tmp_path / "x"], tmp_path / "index.html")


# Commands


def test_the_command_writes_the_index_beside_the_folders(results: Path, cli: Any, tmp_path: Path) -> None:
    done = cli("index", results / "digits", results / "my board")
    assert done.code == 0
    assert done.out.strip() == str(results.resolve() / "index.html")
    assert cli("index", results, "--to", tmp_path / "a.html").code == 0
    assert "leaderboard.html" in (tmp_path / "a.html").read_text(encoding="utf-8")
    refused = cli("index", tmp_path / "none")
    assert refused.code == 2
    assert "expected a folder with leaderboard.json" in refused.err


@pytest.mark.parametrize("there", [True, False])
def test_open_opens_the_page_and_says_where_it_is(
    results: Path, cli: Any, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)) or there)
    done = cli("open", "--out", results / "my board")
    assert done.code == 0
    assert done.out.splitlines()[0] == str(results / "my board" / "leaderboard.html")
    assert opened == [(results / "my board" / "leaderboard.html").resolve().as_uri()]
    assert ("No browser" in done.out) is not there


def test_open_without_a_page_says_what_to_run(cli: Any, tmp_path: Path) -> None:
    for command in ("run", "report"):
        done = cli("open", "--out", tmp_path)
        assert done.code == 2
        assert "leaderboard.html" in done.err
        assert f"Run `python -m bench {command} --out {tmp_path}` first" in done.err
        (tmp_path / "bench.db").touch()  # stored, but not reported yet
