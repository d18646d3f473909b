"""The documentation builds without a warning, and its generated parts are there."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the built site; a warning of Sphinx ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


@pytest.mark.parametrize(
    ("page", "texts"),
    [
        ("reference/commands", ["bench store gc", "--time-limit", "--fail-on-regression"]),
        ("reference/defenses", ["lcnn_gradreg", "lambda_beta"]),
        ("reference/attacks", ["Algorithm 1 of the paper", "n_target_classes"]),
        ("reference/evaluations", ["autoattack_l2_{eps}_broken_by", "hessian_norm_residual"]),
        ("reference/python", ["bench.load_results", "images (N, C, H, W) float in [0, 1]", "weight_decay"]),
        ("contributing", ["House rules"]),
        ("changelog", ["Unreleased"]),
        ("theory", ["Proposition 1"]),
        ("faults", ["exit code"]),
    ],
)
def test_a_page_has_its_content(site, page, texts):
    content = html.unescape(re.sub(r"<[^>]*>", "", (site / f"{page}.html").read_text(encoding="utf-8")))
    assert not [text for text in texts if text not in content]


def test_the_site_loads_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        content = page.read_text(encoding="utf-8")
        assert 'src="http' not in content, page
        assert '<link rel="stylesheet" href="http' not in content, page


@pytest.mark.parametrize(
    ("line", "escaped"),
    [
        ("f(x, *, eps)", r"f(x, \*, eps)"),
        ("|u| and `|u|`", r"\|u\| and `|u|`"),
        ("best_ of many_names", r"best\_ of many_names"),
        ("``a * b`` *", r"``a * b`` \*"),
    ],
)
def test_docstrings_hold_no_markup_but_code(line, escaped):
    spec = importlib.util.spec_from_file_location("docstring_markup", ROOT / "docs/extensions/docstring_markup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.escape(line) == escaped
