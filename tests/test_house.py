"""The house rules that a program can check: imports point down, files say what they are for, sizes stay readable."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    p for folder in ("bench", "models", "attacks", "reports", "benchmarks") for p in (ROOT / folder).rglob("*.py")
)
# What a part of the house may import of the house; everything may import records, errors, files and seeding.
BASE = {"bench", "bench.core", "bench.data", "bench.numerics", "bench.measuring"}
ALLOWED = {
    "attacks": {"bench.attacks"},
    "models": {"bench.attacks", "bench.models"},
    "bench.evaluations": {"bench.attacks", "bench.models", "bench.evaluations"},
    "reports": {"bench.reports", "bench.store", "bench.core"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "bench" else ("bench", *parts)).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return the absolute names of all imported modules, wherever in the file."""
    name = name_of(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(p for p in (base, node.module) if p)
            known = {f"{module}.{a.name}" for a in node.names} & {name_of(p) for p in SOURCES}
            found |= known or {module}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_down(path):
    name = name_of(path)
    part = next((p for p in ALLOWED if name.startswith(p if p.startswith("bench.") else f"bench.{p}")), None)
    if part is None:
        return
    allowed = ALLOWED[part] | BASE
    ours = {i for i in imports(path) if i == "bench" or i.startswith("bench.")}
    wrong = {i for i in ours if i not in allowed and not any(i.startswith(f"{a}.") for a in allowed - {"bench"})}
    if name == "bench.models.registry":  # discovery imports what it registers
        wrong = {i for i in wrong if not i.startswith("bench.evaluations")}
    assert not wrong


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p).startswith("bench.attacks")], ids=name_of)
def test_attacks_import_only_torch(path):
    others = {
        i for i in imports(path) if i.split(".")[0] not in sys.stdlib_module_names and i not in ("torch", "bench")
    }
    others = {i for i in others if not i.startswith(("torch.", "bench.attacks"))}
    if "peers" in path.parts:
        others = {i.split(".")[0] for i in others}
        assert len(others - {"numpy"}) <= 1
    else:
        assert not others


def test_reports_need_no_torch():
    code = (
        "import sys, bench.reports.board.build, bench.reports.exports.writer, bench.reports.html.page, bench.cli.app\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_says_what_it_is_for_and_stays_readable(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "first line: what the file is for"
    assert len(text.splitlines()) <= 400


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=name_of)
def test_a_function_fits_on_a_screen(path):
    """Sixty lines besides its docstring; a hundred for an attack's loop and a benchmark's printing."""
    limit = 100 if path.relative_to(ROOT).parts[0] in ("attacks", "benchmarks") else 60
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node
            assert (node.end_lineno or 0) - first.lineno < limit, node.name


def test_nothing_is_left_over():
    words = [
        f"{p.name}:{i}: {line.strip()}"
        for p in SOURCES
        for i, line in enumerate(p.read_text().splitlines(), 1)
        if any(w in line for w in ("TODO", "FIXME", "XXX", "HACK"))
    ]
    assert not words


def test_no_public_name_is_hidden_by_a_module_of_the_same_name():
    import bench

    assert not {p.stem for p in (ROOT / "bench").iterdir()} & set(bench.__all__)
