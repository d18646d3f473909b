"""One import name, whichever way bench is installed; environments see this one's packages, so nothing is downloaded."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROBE = (
    "import bench, bench.core.registry as r, bench.attacks.pgd, bench.reports, bench.config.suite_file, pathlib\n"
    "print(pathlib.Path(bench.__file__).parent)\n"
    "print(pathlib.Path(bench.attacks.pgd.__file__).parent)\n"
    "assert {'standard', 'lcnn', 'vanilla'} <= {e.name for e in r.defenses}\n"
    "assert 'digits' in {s['name'] for s in bench.config.suite_file.suites()}\n"
)


@pytest.fixture(autouse=True)
def _only_what_is_installed(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Copy what git tracks, or would, so that building leaves no trace in the checkout."""
    target = tmp_path_factory.mktemp("install") / "check out ü"
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listing.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def environment(folder: Path) -> Path:
    """Make a virtual environment that sees this one's packages (but not its editable bench); return its python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "outer.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def pip(python: Path, *arguments: str) -> None:
    call = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    subprocess.run(call, check=True, capture_output=True, text=True)


def probe(python: Path | str, cwd: Path) -> list[Path]:
    done = subprocess.run([str(python), "-c", PROBE], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def test_a_bare_checkout(checkout):
    assert probe(sys.executable, checkout) == [checkout / "bench", checkout / "attacks"]


def test_an_editable_install(checkout, tmp_path):
    python = environment(tmp_path / "env")
    pip(python, "install", "--ignore-installed", "--no-deps", "--no-build-isolation", "-e", str(checkout))
    assert probe(python, tmp_path) == [checkout / "bench", checkout / "attacks"]


def test_a_plain_install_beside_a_project_with_its_own_models(checkout, tmp_path):
    python = environment(tmp_path / "env")
    wheels = tmp_path / "wheels"
    pip(python, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(checkout))
    wheel = next(wheels.glob("adversarial_bench-*.whl"))
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {n for n in names if not n.endswith(".dist-info")} == {"bench"}
    pip(python, "install", "--ignore-installed", "--no-deps", str(wheel))
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    (project / "models" / "__init__.py").write_text("mine = True\n")
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    assert probe(python, project) == [site / "bench", site / "bench" / "attacks"]
    code = "import models, bench.models; assert models.mine and bench.models.__file__ != models.__file__"
    subprocess.run([str(python), "-c", code], cwd=project, check=True)
    script = tmp_path / "env" / "bin" / "bench"
    done = subprocess.run([str(script), "--version"], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bench ")


def build(folder: Path, kind: str, target: Path) -> tuple[Path, str]:
    """Build an archive from a source folder; return it with what the build said."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return target / done.stdout.splitlines()[-1], done.stdout + done.stderr


def test_the_archives_hold_the_data_files_and_no_tests(checkout, tmp_path):
    sdist, said = build(checkout, "sdist", tmp_path)
    assert "Warning" not in said
    assert "is absent from" not in said
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert {"CHANGELOG.md", "LICENSE", "README.md"} <= {p.name for p in source.iterdir()}
    assert not [p for p in source.rglob("*") if p.name == "tests" or p.name.startswith("test_")]
    wheel, said = build(source, "wheel", tmp_path)
    assert "is absent from" not in said
    packed = set(zipfile.ZipFile(wheel).namelist())
    parts = {"bench": "bench", "models": "bench/models", "attacks": "bench/attacks", "reports": "bench/reports"}
    wanted = {
        f"{name}/{p.relative_to(ROOT / folder)}"
        for folder, name in parts.items()
        for p in (ROOT / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert wanted <= packed
    assert not [name for name in packed if name.rsplit("/", 1)[-1].startswith("test_")]
