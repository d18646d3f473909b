"""Every code block of README and of the documentation runs as it stands (blocks.py has the marks)."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
GIVEN = (
    "--defense standard --defense lcnn --seeds 0 --epochs 8 --train-limit 700 --limit 12 --quiet "
    "--evaluation accuracy --evaluation pgd_l2 --evaluation autoattack_l2 --evaluation curvature"
)


def load(name: str) -> ModuleType:
    """Import a module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


parts = load("blocks")
PAGES = [page for page in parts.pages() if parts.blocks(page)]
IDS = [str(page.relative_to(parts.ROOT)) for page in PAGES]


@pytest.fixture(scope="session")
def given(run_page, tmp_path_factory) -> Path:
    """Return a folder `results/digits` with two rows that are trained well enough for some images to survive."""
    folder = tmp_path_factory.mktemp("given")
    page = folder / "given.md"
    page.write_text(f"```sh\npython -m bench run --suite digits {GIVEN}\n```\n")
    done = run_page(page, folder)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "digits"


def start(page: Path, folder: Path, request: pytest.FixtureRequest) -> Path:
    """Return the folder in which a page's blocks run, with what the page says it is given."""
    folder = folder / "page"
    folder.mkdir()
    if parts.GIVEN in page.read_text(encoding="utf-8"):
        shutil.copytree(request.getfixturevalue("given"), folder / "results" / "digits")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_the_code_of_a_page_runs(page, run_page, tmp_path, request):
    done = run_page(page, start(page, tmp_path, request))
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.mark == "small" for b in parts.blocks(p))], ids=lambda p: p.name
)
def test_what_takes_minutes_runs_as_it_stands(page, run_page, tmp_path, request):
    done = run_page(page, start(page, tmp_path, request), "--whole")
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```python\nraise ValueError('seen')\n```\n", "seen"),
        ("```python\nx = 1\n```\n\n```python\nassert x == 2, 'one namespace'\n```\n", "one namespace"),
        ("```sh\nfalse\n```\n", "expected exit code 0, got 1"),
        ("```sh\npython -m bench list nothing\n```\n", "expected exit code 0, got 2"),
        (
            "<!-- test: checked gpu -->\n```sh\npython -m bench run --suite cifar10 --no-such-option\n```\n",
            "no-such-option",
        ),
        ("<!-- test: checked gpu -->\n```sh\npython -m bench run --suite cifar11\n```\n", "cifar10"),
        ("<!-- test: checked hours -->\n```sh\npython -m benchmarks.restarts --no-such 3\n```\n", "no-such"),
        ("```sh\npip install '.[nothing]'\n```\n", "nothing"),
        ("```sh\ntox -e nothing\n```\n", "nothing"),
        ("```toml\nname = \n```\n", "Invalid value"),
        ("<!-- test: never -->\n```sh\ntrue\n```\n", "expected small, checked REASON"),
        ("```ruby\n1\n```\n", "ruby"),
    ],
)
def test_a_wrong_block_is_found(text, said, run_page, tmp_path):
    done = run_page(write(tmp_path, text), tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
