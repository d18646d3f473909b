"""How OpenMP's threads wait is set before torch is loaded, and left alone where the user has said it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from bench.__main__ import main
assert "torch" not in sys.modules
sys.argv = ["bench", "list", "suites", "--json"]
try:
    main()
except SystemExit:
    pass
print(os.environ.get("OMP_WAIT_POLICY"), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "100"}, "None")],
)
def test_threads_that_wait_sleep_unless_the_user_says_otherwise(given, policy):
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", CODE], env=clean | given, check=True, capture_output=True, text=True)
    assert done.stderr.split() == [policy]
