"""The house rules that a program can check: imports point down, files say what they are for, sizes stay readable."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bench
from bench.core import discovery
from benchmarks import house

ROOT = Path(__file__).resolve().parent.parent
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULES = {m.name: m for m in house.modules()}


@pytest.mark.parametrize("figure", list(house.figures()), ids=lambda f: f.name)
def test_a_figure_is_within_its_limit(figure):
    assert figure.holds, figure.where


def test_every_module_has_a_level():
    known = set(range(len(house.LEVELS)))
    assert not [name for name in MODULES if house.level(name) not in known]


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("bench.attacks")])
def test_attacks_import_only_torch_numpy_and_the_core(name):
    """A peer may also import the one library that it wraps, inside its function."""
    found = {origin for origin, _ in house.imports(MODULES[name])}
    others = {i for i in found if i.split(".")[0] not in sys.stdlib_module_names | {"torch", "numpy"}}
    others = {i for i in others if not i.startswith(("bench.attacks", "bench.core"))}
    if name.startswith("bench.attacks.peers."):
        assert len({i.split(".")[0] for i in others}) <= 1
        assert not {i for i in others if i.startswith("bench")}
        top = {a.name for n in MODULES[name].tree.body if isinstance(n, ast.Import) for a in n.names}
        top |= {n.module for n in MODULES[name].tree.body if isinstance(n, ast.ImportFrom)}
        assert not others & top
    else:
        assert not others


def test_reports_need_no_torch():
    code = (
        "import sys, bench.reports.board.build, bench.reports.exports.writer, bench.reports.html.page, bench.cli.app\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    imported = {n: {o for o, _ in house.imports(m)} for n, m in MODULES.items() if n.startswith("bench.reports")}
    assert not {n for n, found in imported.items() if any(o.split(".")[0] == "torch" for o in found)}


@pytest.mark.parametrize("name", MODULES)
def test_a_file_says_what_it_is_for(name):
    assert ast.get_docstring(MODULES[name].tree), "first line: what the file is for"


@pytest.mark.parametrize("path", TESTS, ids=house.import_name)
def test_a_test_fits_on_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert house.function_lines(node) <= house.MAX_FUNCTION_LINES, node.name


def test_nothing_is_left_over():
    words = [
        f"{m.name}:{i}: {line.strip()}"
        for m in MODULES.values()
        for i, line in enumerate(m.text.splitlines(), 1)
        if any(w in line for w in ("TODO", "FIXME", "XXX", "HACK"))
    ]
    assert not words


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda p: p.name)
def test_a_document_names_files_and_modules_that_exist(path):
    words = set(re.findall(r"`([\w./-]+)(?![\w./<*-])", path.read_text()))
    places = {w for w in words if w.split("/")[0] in (*house.FOLDERS, "tests", "docs") and "/" in w}
    assert not [place for place in places if not (ROOT / place).exists()]
    names = {*MODULES, *(f"bench.{name}" for name in bench.__all__), *discovery.ENTRY_POINTS, "bench.db"}
    dotted = {w.rstrip(".") for w in words if w.startswith(("bench.", "benchmarks."))}
    assert not {w for w in dotted if w not in names and w.rpartition(".")[0] not in set(MODULES) - {"bench"}}


def test_no_public_name_is_hidden_by_a_module_of_the_same_name():
    assert not {p.stem for p in (ROOT / "bench").iterdir()} & set(bench.__all__)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Measure a tree of given files instead of the project's."""

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(house, "ROOT", tmp_path)
        house.modules.cache_clear()
        house.import_graph.cache_clear()

    yield write
    house.modules.cache_clear()
    house.import_graph.cache_clear()


def test_lazy_and_type_checking_imports_count_as_imports(written):
    written(
        bench__store__a="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bench.store.b import B\n",
        bench__store__b="def f():\n    from bench.store import c\n",
        bench__store__c="from bench.store.a import A\n",
        bench__core__d="def f():\n    import bench.running.e\n",
        bench__running__e="from bench.core.d import f\n",
    )
    assert house.cycles() == [("bench.core.d", "bench.running.e"), ("bench.store.a", "bench.store.b", "bench.store.c")]
    assert house.upward_imports() == ["bench.core.d imports bench.running.e"]


def test_private_names_are_found_however_they_are_imported(written):
    written(
        bench__core__a="def _f(): ...\n",
        bench__core__b="from bench.core.a import _f\n",
        bench__core__c="from bench.core import a\n\na._f()\n",
        bench__core__d="from bench.core.a import f\n\nself._f()\n",
    )
    assert house.private_imports() == ["bench.core.b imports _f of bench.core.a", "bench.core.c uses a._f"]


def test_numbers_of_a_function(written):
    written(
        bench__core__a='def f(self, a, b, *, c):\n    """Say.\n\n    More.\n    """\n    if a:\n        return 1\n'
        "    for b in a:\n        pass\n    return 2\n"
    )
    (node,) = house.functions(house.modules()[0])
    assert (house.function_lines(node), house.positional_parameters(node), house.complexity(node)) == (5, 2, 3)
