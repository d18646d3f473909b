"""The page in headless Chromium: sort, filter, links, themes, narrow screens, accessibility, no network, no errors."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.reports import write
from bench.reports.board.model import Board
from bench.reports.html import page
from bench.reports.html.index_page import boards_of, index_html
from benchmarks import board_scale

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
HOSTILE = "\"><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    downloads = str(tmp_path_factory.mktemp("downloads"))
    prefs = {"download.default_directory": downloads, "download.prompt_for_download": False}
    options.add_experimental_option("prefs", prefs)
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    made.downloads = downloads
    yield made
    made.quit()


@pytest.fixture(scope="module")
def file(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    path.write_text(page.render(board), encoding="utf-8")
    return path


@pytest.fixture
def shown(driver: Any, file: Path) -> Iterator[Callable[..., Any]]:
    """Return `shown(hash, width, theme)`, which opens the page; afterwards there must be no error and no request."""
    driver.get_log("browser"), driver.get_log("performance")

    def show(anchor: str = "", width: int = 1440, theme: str = "light", path: Path = file) -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        driver.get("about:blank")
        driver.get(path.as_uri() + anchor)
        return driver

    yield show
    assert [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert [url for url in requested(driver) if not url.startswith(("file:", "data:", "about:", "blob:"))] == []


def requested(driver: Any) -> list[str]:
    """Return the addresses that the browser asked for since the log was last read."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def visible_rows(driver: Any) -> list[str]:
    rows = "[...document.querySelectorAll('#ranking tbody tr')]"
    return driver.execute_script(f"return {rows}.filter(r => r.id && !r.hidden).map(r => r.dataset.name)")


def click(driver: Any, selector: str) -> None:
    element = driver.find_element("css selector", selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def test_the_page_itself_is_the_only_request(shown: Callable[..., Any], file: Path) -> None:
    driver = shown()
    assert set(requested(driver)) <= {"about:blank", file.as_uri(), "data:,"} | {
        url for url in requested(driver) if url.startswith("data:")
    }


def test_sort_by_a_column_both_ways_and_say_it_to_screen_readers(shown: Callable[..., Any], board: Board) -> None:
    driver = shown()
    by_curvature = sorted(board.rows, key=lambda r: r.cells["curvature"].value or 0)
    click(driver, '#ranking th[data-column="curvature"] .sort')
    assert visible_rows(driver) == [r.defense for r in by_curvature]
    head = driver.find_element("css selector", '#ranking th[data-column="curvature"]')
    assert head.get_attribute("aria-sort") == "ascending"
    assert driver.find_elements("css selector", "#ranking th[aria-sort]") == [head]
    click(driver, '#ranking th[data-column="curvature"] .sort')
    assert visible_rows(driver) == [r.defense for r in reversed(by_curvature)]
    assert head.get_attribute("aria-sort") == "descending"
    assert "descending" in driver.find_element("css selector", "#status").get_attribute("textContent")


def test_first_click_sorts_the_better_end_up(shown: Callable[..., Any], board: Board) -> None:
    driver = shown()
    click(driver, '#ranking th[data-column="clean_accuracy"] .sort')
    best = max(r.cells["clean_accuracy"].value or 0 for r in board.rows)
    first = next(r for r in board.rows if r.defense == visible_rows(driver)[0])
    assert first.cells["clean_accuracy"].value == best


def test_sorting_works_from_the_keyboard(shown: Callable[..., Any]) -> None:
    driver = shown()
    before = visible_rows(driver)
    button = driver.find_element("css selector", '#ranking th[data-column="defense"] .sort')
    driver.execute_script("arguments[0].focus()", button)
    button.send_keys("\n")
    assert visible_rows(driver) == sorted(before)


@pytest.fixture(scope="module")
def graded(make_board: Callable[..., Board], tmp_path_factory: pytest.TempPathFactory) -> tuple[Board, Path]:
    """Return a board on which cure and vanilla are upper bounds only, and its page."""
    board = make_board(n=120, seeds=1, grades={("cure", 0): "C", ("vanilla", 0): "C", ("lcnn", 0): "INVALID"})
    path = tmp_path_factory.mktemp("graded") / "leaderboard.html"
    path.write_text(page.render(board), encoding="utf-8")
    return board, path


def test_upper_bounds_stay_below_the_ranking_however_it_is_sorted(
    shown: Callable[..., Any], graded: tuple[Board, Path]
) -> None:
    board, path = graded
    driver = shown(path=path)
    for column in ("clean_accuracy", "curvature", "defense"):
        click(driver, f'#ranking th[data-column="{column}"] .sort')
        assert set(visible_rows(driver)[-2:]) == {"cure", "vanilla"}
    assert visible_rows(driver)[-2:] == ["cure", "vanilla"], "sorted by name among themselves"
    assert "lcnn" not in visible_rows(driver)
    driver.find_element("css selector", "#filter-trust").send_keys("B")
    assert set(visible_rows(driver)) == {r.defense for r in board.rows if r.rank is not None}
    assert not driver.find_element("css selector", ".divider").is_displayed()
    driver = shown("#row-cure?trust=B", path=path)
    assert "cure" in visible_rows(driver), "a row that is linked to is shown whatever the filter says"
    driver = shown("#?trust=C", path=path)
    assert visible_rows(driver) == [r.defense for r in board.rows if r.is_upper_bound]


def test_search_and_filter_narrow_the_rows_and_can_be_undone(shown: Callable[..., Any], board: Board) -> None:
    driver = shown()
    driver.find_element("css selector", "#search").send_keys("LCNN")
    assert sorted(visible_rows(driver)) == ["lcnn", "lcnn_gradreg"]
    click(driver, "#filter-first")
    first = {r.defense for r in board.rows if r.rank_low == 1}
    assert set(visible_rows(driver)) == first & {"lcnn", "lcnn_gradreg"}
    driver.find_element("css selector", "#search").send_keys("zzz")
    assert visible_rows(driver) == []
    click(driver, "#empty-reset")
    assert visible_rows(driver) == [r.defense for r in board.rows]


def test_state_lives_in_the_address_and_survives_a_reload(shown: Callable[..., Any]) -> None:
    driver = shown()
    driver.find_element("css selector", "#search").send_keys("reg")
    click(driver, '#ranking th[data-column="gradient_norm"] .sort')
    click(driver, "#columns summary")
    click(driver, '#columns input[value="pgd_l2_0.1"]')
    rows, address = visible_rows(driver), driver.current_url
    assert "q=reg" in address
    driver.get("about:blank")
    driver.get(address)
    assert visible_rows(driver) == rows
    assert driver.find_element("css selector", "#search").get_attribute("value") == "reg"
    cell = driver.find_element("css selector", '#ranking tr:not([hidden]) td[data-column="pgd_l2_0.1"]')
    assert cell.is_displayed()


def test_a_nonsense_address_is_ignored(shown: Callable[..., Any], board: Board) -> None:
    driver = shown("#?sort=nothing:up&columns=x,y&trust=Q%25%E0%A4%A&q=")
    assert len(visible_rows(driver)) in (0, len(board.rows))
    driver = shown("#?sort=toString:asc&columns=__proto__")
    assert visible_rows(driver) == [r.defense for r in board.rows]


def test_permalink_marks_the_row_and_brings_it_into_view(shown: Callable[..., Any]) -> None:
    driver = shown("#row-cure")
    row = driver.find_element("css selector", "#row-cure")
    assert "target" in row.get_attribute("class")
    box = driver.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.top, b.bottom]", row)
    assert box[0] >= 0
    assert box[1] <= 900


def test_link_into_a_closed_section_opens_it(shown: Callable[..., Any]) -> None:
    driver = shown("#defense-cure")
    assert driver.find_element("css selector", "#defense-cure").get_property("open")
    click(driver, '#ranking a[href="#defense-lcnn"]')
    section = driver.find_element("css selector", "#defense-lcnn")
    assert section.get_property("open")
    images = section.find_elements("css selector", ".strip .tile")
    assert len(images) >= 6
    looks = driver.execute_script(
        "const s = getComputedStyle(arguments[0]); return [s.width, s.backgroundImage]", images[0]
    )
    assert looks[0] == "64px"
    assert looks[1].startswith('url("data:image/png;base64,')


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_text_is_one_size_in_all_figures(shown: Callable[..., Any], width: int) -> None:
    """Drawings stand at their own size, whose letters a test of the drawings compares."""
    driver = shown("#more-figures", width=width)
    visible = "[...document.querySelectorAll('#figures .panel svg')].filter(s => s.getBoundingClientRect().width)"
    scales = driver.execute_script(
        f"return {visible}.map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width)"
    )
    assert len(scales) > 20
    assert min(scales) > 0.9
    assert max(scales) < 1.01


def test_figures_are_whole_on_paper_and_have_their_names(shown: Callable[..., Any], driver: Any) -> None:
    driver = shown()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    looks = "getComputedStyle(document.querySelector('{}')).{}"
    found = [
        driver.execute_script(f"return {looks.format(*of)}")
        for of in (("figure", "breakInside"), ("#figure-cost .large", "display"), ("#figure-cost .small", "display"))
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert found == ["avoid", "block", "none"]


def test_the_index_shows_the_boards_of_one_data_set(
    shown: Callable[..., Any], fabricate: ModuleType, tmp_path: Path
) -> None:
    from selenium.webdriver import ActionChains, Keys

    for name in ("digits", "other"):
        plan = fabricate.make_plan(evaluations=("accuracy", "pgd_l2"))
        plan["data"]["name"] = name
        fabricate.make_store(tmp_path / name, plan)
        write(tmp_path / name)
    target = tmp_path / "index.html"
    target.write_text(index_html(boards_of([tmp_path]), target), encoding="utf-8")
    driver = shown("#other", path=target)
    boards = "return [...document.querySelectorAll('#boards tbody tr')].filter(r => !r.hidden).map(r => r.dataset.of)"
    assert driver.execute_script(boards) == ["other"]
    driver.execute_script("document.querySelector('#tabs input[value=other]').focus()")
    ActionChains(driver).send_keys(Keys.ARROW_LEFT).perform()
    assert driver.execute_script(boards) == ["digits"]
    assert driver.current_url.endswith("#digits")
    driver.find_element("css selector", "#boards a").click()
    assert driver.current_url.endswith("digits/leaderboard.html")


def cards(driver: Any, side: str) -> list[int]:
    """Return the images that the cards of one side show."""
    texts = driver.execute_script(
        f"return [...document.querySelectorAll('#pair-{side} .quiet')].map(n => n.textContent)"
    )
    return [int(re.findall(r"image (\d+)", text)[0]) for text in texts]


def test_every_pair_leads_to_its_images(shown: Callable[..., Any], board: Board) -> None:
    """A link of the table of pairs, by keyboard; the address keeps the pair; stages narrow the cards."""
    driver = shown("#pairs")
    pair = next(p for p in board.pairs if p.only_a and p.only_b)
    link = driver.find_element("css selector", f'#pairs a[data-keeps="{pair.a}"][data-loses="{pair.b}"]')
    link.send_keys("\n")
    assert driver.find_element("css selector", "#images").get_property("open")
    assert (
        driver.find_element("css selector", "#pair-keeps-title").text
        == f"{pair.a} keeps, {pair.b} loses: {pair.only_a}"
    )
    assert len(cards(driver, "keeps")) == min(60, pair.only_a)
    assert len(cards(driver, "loses")) == min(60, pair.only_b)
    address = driver.current_url
    assert address.endswith(f"#images:{pair.a}:{pair.b}")
    before = cards(driver, "keeps")
    shown(address.partition("leaderboard.html")[2])
    assert cards(driver, "keeps") == before
    driver.find_element("css selector", "#pair-swap").click()
    assert cards(driver, "loses") == before
    stage = driver.find_element("css selector", "#pair-stage")
    stage.send_keys("apgd-ce")
    words = driver.execute_script("return [...document.querySelectorAll('#pair-loses .card')].map(n => n.textContent)")
    assert words
    assert all("by apgd-ce" in text for text in words)


def paper(driver: Any) -> str:
    return driver.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_theme_follows_the_system_and_the_button_overrides_it(shown: Callable[..., Any]) -> None:
    day = paper(shown(theme="light"))
    driver = shown(theme="dark")
    assert paper(driver) != day
    button = driver.find_element("css selector", "#theme")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert paper(driver) == day
    assert button.get_attribute("aria-pressed") == "false"
    driver.refresh()
    assert paper(driver) == day
    driver.execute_script("localStorage.clear()")


def bottom(driver: Any, selector: str) -> float:
    """Return how far below the top of the page an element ends."""
    return float(driver.execute_script(f"return document.querySelector('{selector}').getBoundingClientRect().bottom"))


def top(driver: Any, selector: str) -> float:
    """Return how far below the top of the page an element begins."""
    return float(driver.execute_script(f"return document.querySelector('{selector}').getBoundingClientRect().top"))


def test_verdict_answers_and_five_rows_are_on_the_first_screen(shown: Callable[..., Any], board: Board) -> None:
    driver = shown(width=1440)
    answers = driver.find_elements("css selector", "#summary > .answers > div")
    assert len(answers) == 4
    heights = [element.rect["height"] for element in answers]
    assert max(heights) < 2 * min(heights) + 4, "one line each, at most one of them two"
    places = [bottom(driver, f"#row-{row.anchor}") for row in board.rows]
    words = len(driver.find_element("css selector", "main").text.split())
    height = driver.execute_script("return document.documentElement.scrollHeight")
    print(
        f"table at {top(driver, '#ranking'):.0f} px, its fifth row ends at {places[4]:.0f}; {words} words, {height} px"
    )


def test_on_a_phone_the_table_begins_within_a_screen_and_a_fifth(shown: Callable[..., Any]) -> None:
    driver = shown(width=390)
    print(f"table at {top(driver, '#ranking'):.0f} px at 390")
    assert top(driver, "#ranking") <= 1.2 * 844


def test_the_table_fits_at_1440_and_its_head_stays_in_sight(shown: Callable[..., Any], board: Board) -> None:
    driver = shown(width=1440)
    box = "document.querySelector('.scroll.ranking')"
    assert driver.execute_script(f"return {box}.scrollWidth <= {box}.clientWidth")
    low = board.rows[-4].anchor
    driver.execute_script(f"document.getElementById('row-{low}').scrollIntoView({{block: 'start'}})")
    assert top(driver, "#ranking thead th") == pytest.approx(0, abs=1)
    assert driver.find_element("css selector", ".scroll.ranking").get_attribute("tabindex") is None
    driver = shown("#?view=all", width=390)
    driver.execute_script(f"const b = {box}; b.scrollIntoView(); b.scrollTop = 120; b.scrollLeft = 300")
    assert top(driver, "#ranking thead th") == pytest.approx(top(driver, ".scroll.ranking"), abs=2)
    left = driver.execute_script("return document.querySelector('#ranking tbody th').getBoundingClientRect().left")
    assert left == pytest.approx(16, abs=2), "whose numbers they are stays in sight as well"


def visible_columns(driver: Any) -> list[str]:
    heads = driver.find_elements("css selector", "#ranking thead th")
    return [head.get_attribute("data-column") for head in heads if head.is_displayed()]


def test_presets_choose_columns_and_live_in_the_address(shown: Callable[..., Any]) -> None:
    driver = shown()
    main = visible_columns(driver)
    click(driver, '#presets input[value="table1"]')
    assert visible_columns(driver) == [
        "rank", "defense", "clean_accuracy", "gradient_norm", "hessian_norm", "curvature"
    ]  # fmt: skip
    assert "view=table1" in driver.current_url
    address = driver.current_url
    driver.get("about:blank")
    driver.get(address)
    assert len(visible_columns(driver)) == 6
    assert driver.find_element("css selector", '#presets input[value="table1"]').is_selected()
    click(driver, "#columns summary")
    click(driver, '#columns input[value="curvature"]')
    assert "view=" not in driver.current_url
    assert not [i for i in driver.find_elements("css selector", "#presets input") if i.is_selected()]
    click(driver, "#reset")
    assert visible_columns(driver) == main
    for name, among in (("robust", "pgd_l2_0.1"), ("cost", "train_flops"), ("all", "eval_backwards")):
        driver = shown(f"#?view={name}")
        assert among in visible_columns(driver)
        assert among not in main or name == "cost"


def test_the_tables_tab_stops_are_few(shown: Callable[..., Any], board: Board) -> None:
    """One per sortable heading and per link of a row, one for all presets; none for marks."""
    driver = shown()
    script = """
        const can = 'a[href], button, input, select, summary, [tabindex="0"]';
        const radios = new Set();
        return [...document.querySelectorAll('#board ' + can.split(', ').join(', #board '))].filter(e => {
          if (e.tabIndex < 0 || !e.checkVisibility()) return false;
          if (e.type !== 'radio') return true;
          return radios.size !== radios.add(e.name).size; }).length"""
    stops = driver.execute_script(script)
    heads = len(visible_columns(driver))
    print(f"tab stops of the table: {stops}")
    assert stops <= heads + len(board.rows) + 8
    assert "?" not in [a.text for a in driver.find_elements("css selector", "#ranking thead a")]


@pytest.mark.parametrize("width", [1440, 768, 390, 320])
def test_the_page_never_scrolls_sideways(shown: Callable[..., Any], width: int) -> None:
    driver = shown("#defense-lcnn_gradreg", width=width)
    driver.execute_script("for (const d of document.querySelectorAll('details:not(#columns)')) d.open = true")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_on_a_phone_rank_name_and_robust_accuracy_fit_side_by_side(shown: Callable[..., Any], board: Board) -> None:
    driver = shown(width=390)
    cell = driver.find_element("css selector", f'#row-lcnn td[data-column="{board.ranking}"]')
    assert driver.execute_script("return arguments[0].getBoundingClientRect().right", cell) <= 390


def test_tooltip_explains_a_column_on_focus_and_goes_on_escape(shown: Callable[..., Any]) -> None:
    driver = shown()
    button = driver.find_element("css selector", '#ranking th[data-column="curvature"] .sort')
    driver.execute_script("arguments[0].focus()", button)
    tip = driver.find_element("css selector", "#tooltip")
    assert "Normalised curvature" in tip.text
    assert button.get_attribute("aria-describedby") == "tooltip"
    button.send_keys("\ue00c")
    assert not tip.is_displayed()


def test_download_buttons_save_the_exports(shown: Callable[..., Any], board: Board) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    from bench.reports.exports import csv, robustbench

    driver = shown()
    click(driver, '.download[data-file="leaderboard.csv"]')
    click(driver, '.download[data-file="model_info.zip"]')
    for name, content in (
        ("leaderboard.csv", csv.csv_text(board).encode()),
        ("model_info.zip", robustbench.archive(board)),
    ):
        saved = Path(driver.downloads) / name
        WebDriverWait(driver, 20).until(lambda _, saved=saved: saved.is_file() and saved.stat().st_size > 0)
        assert saved.read_bytes() == content


def test_pointing_at_a_row_brings_its_series_out(shown: Callable[..., Any]) -> None:
    from selenium.webdriver import ActionChains

    driver = shown()
    ActionChains(driver).move_to_element(driver.find_element("css selector", "#row-lcnn .value")).perform()
    bright = driver.find_elements("css selector", "#figure-accuracy-against-eps .bright")
    assert {node.get_attribute("data-series") for node in bright} == {"lcnn"}


def test_without_javascript_everything_is_there(shown: Callable[..., Any], driver: Any, board: Board) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown()
        text = driver.find_element("css selector", "body").text
        assert all(row.defense in text for row in board.rows)
        assert "Better than the next?" in text
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_names_run_nothing(shown: Callable[..., Any], make_board: Callable[..., Board], tmp_path: Path) -> None:
    board = make_board(
        names={HOSTILE: (0.5, 3.0, 30.0, 1.0), "b": (0.3, 3.0, 30.0, 1.0)},
        seeds=1,
        n=40,
        data_note=HOSTILE,
        data_original=False,
        row_description=HOSTILE,
        row_bibtex="</script><script>document.title='owned'</script>",
    )
    path = tmp_path / "hostile.html"
    path.write_text(page.render(board), encoding="utf-8")
    driver = shown(path=path)
    driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    assert driver.title != "owned"
    assert visible_rows(driver)[0] == HOSTILE


def test_even_injected_markup_could_not_run_a_script(driver: Any, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "injected.html"
    html = file.read_text("utf-8").replace("<main>", "<main><script>document.title = 'owned'</script>", 1)
    path.write_text(html, encoding="utf-8")
    driver.get(path.as_uri())
    assert driver.title != "owned"
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (390, "dark")])
def test_axe_finds_nothing(
    shown: Callable[..., Any], make_board: Callable[..., Board], tmp_path: Path, width: int, theme: str
) -> None:
    axe = importlib.util.find_spec("axe_core_python")
    if axe is None or axe.origin is None:
        pytest.skip("axe-core-python is not installed")
    names = {"standard": (0.3, 9.0, 41.0, 1.0), "lcnn": (0.5, 9.0, 4.0, 1.1), "cure": (0.4, 3.0, 30.0, 4.0)}
    names["gradreg"] = (0.5, 8.0, 40.0, 2.0)
    board = make_board(names=names, n=40, data_name="cifar100", failed=("cure",), grades={("gradreg", 1): "C"})
    path = tmp_path / "small.html"
    path.write_text(page.render(board), encoding="utf-8")
    driver = shown("#defense-lcnn", width=width, theme=theme, path=path)
    driver.execute_script("for (const d of document.querySelectorAll('details:not(.defense)')) d.open = true")
    driver.execute_script(Path(axe.origin).with_name("axe.min.js").read_text("utf-8"))
    driver.set_script_timeout(120)
    result = driver.execute_async_script("axe.run().then(arguments[0], e => arguments[0](String(e)))")
    found = [f"{v['id']}: {v['help']}: {n['html'][:200]}" for v in result["violations"] for n in v["nodes"][:3]]
    assert found == []


def test_a_large_page_opens_in_two_seconds(driver: Any, large_page: str, tmp_path: Path) -> None:
    """The goal is 2 s on an idle machine: counted in CPU time of the page's thread, which others do not lengthen."""
    path = tmp_path / "large.html"
    path.write_text(large_page, encoding="utf-8")
    took = opening(driver, path)
    print(f"CPU time to open 20 defenses × 1,000 images: {took:.2f} s")
    assert took < 2


@pytest.mark.slow
def test_a_page_of_two_hundred_rows_is_light_and_opens_in_two_seconds(driver: Any, tmp_path: Path) -> None:
    out = board_scale.fabricated(tmp_path / "out")
    write(out)
    path = out / "leaderboard.html"
    took = opening(driver, path)
    print(f"200 defenses × 10,000 images: {path.stat().st_size / 1e6:.1f} MB, {took:.2f} s of CPU to open")
    assert path.stat().st_size < 5e6
    assert took < 2


def opening(driver: Any, path: Path) -> float:
    """Return the seconds that the page's thread works to open a page, the less of two times."""
    driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    times = []
    for _ in range(2):
        driver.get("about:blank")
        before = busy(driver)
        driver.get(path.as_uri())
        times.append(busy(driver) - before)
    driver.execute_cdp_cmd("Performance.disable", {})
    return min(times)


@pytest.fixture(scope="module")
def many(make_board: Callable[..., Board], tmp_path_factory: pytest.TempPathFactory) -> tuple[Board, Path]:
    """Return a board of so many rows that its page holds their details compressed, and the page."""
    names = {f"defense_{k:02d}": (0.3 + 0.01 * k, 9.0 - 0.1 * k, 40.0 / (k + 1), 1.0) for k in range(24)}
    board = make_board(names=names, seeds=1, n=40, pictures=2)
    path = tmp_path_factory.mktemp("many") / "leaderboard.html"
    path.write_text(page.render(board), encoding="utf-8")
    return board, path


def test_a_large_page_unfolds_what_is_asked_for(shown: Callable[..., Any], many: tuple[Board, Path]) -> None:
    """Sections by link and by click, folded figures, pairs, images of a pair, a download."""
    from selenium.webdriver.support.ui import WebDriverWait

    from bench.reports.exports import csv

    board, path = many
    last = board.rows[-1]
    driver = shown(f"#defense-{last.anchor}", path=path)

    def until(script: str) -> Any:
        return WebDriverWait(driver, 20).until(lambda d: d.execute_script(f"return {script}"))

    assert until(f"document.querySelector('#defense-{last.anchor} .body .belief') !== null")
    assert driver.execute_script("return document.querySelectorAll('.defense [data-part]').length") == 23
    click(driver, f'#ranking a[href="#defense-{board.rows[0].anchor}"]')
    assert until(f"document.querySelector('#defense-{board.rows[0].anchor} .body table') !== null")
    driver = shown("#figure-curvature", path=path)
    assert until("document.querySelector('#figure-curvature svg')?.checkVisibility()")
    driver = shown("#pairs", path=path)
    assert until("document.querySelectorAll('#pairs tbody tr').length") == 23
    driver.find_element("css selector", "#pairs-of").send_keys(last.defense)
    assert until(f"document.querySelector('#pairs tbody tr td').textContent === '{last.defense}'")
    link = driver.find_element("css selector", "#pairs a[data-keeps]")
    keeps, loses, images = link.get_attribute("data-keeps"), link.get_attribute("data-loses"), link.text
    link.send_keys("\n")
    title = json.dumps(f"{keeps} keeps, {loses} loses: {images}")
    assert until(f"document.getElementById('pair-keeps-title').textContent === {title}")
    click(driver, '.download[data-file="leaderboard.csv"]')
    saved = sorted(Path(driver.downloads).glob("leaderboard*.csv"))
    text = csv.csv_text(board).encode()
    WebDriverWait(driver, 20).until(
        lambda _: any(p.read_bytes() == text for p in Path(driver.downloads).glob("leaderboard*.csv")), str(saved)
    )


def test_a_large_page_is_read_and_printed_without_javascript(
    shown: Callable[..., Any], driver: Any, many: tuple[Board, Path]
) -> None:
    board, path = many
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        shown(path=path)
        text = driver.find_element("css selector", "body").text
        assert all(row.title in text for row in board.rows)
        assert "the details of a row need JavaScript" in text
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert driver.find_element("css selector", f"#row-{board.rows[-1].anchor}").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def busy(driver: Any) -> float:
    """Return the seconds that the page's thread has worked."""
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))


def test_a_printed_page_fits_the_sheet_and_is_light(shown: Callable[..., Any], driver: Any) -> None:
    shown(width=720, theme="dark")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 720
        assert paper(driver) == "rgb(255, 255, 255)"
        assert not driver.find_element("css selector", "#presets").is_displayed()
        height = 720 * 10 / 7.5  # of a letter sheet with margins, as wide as this window
        assert bottom(driver, "#ranking") <= height, "the table ends on the first sheet"
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
