"""The checks of `doctor`: versions, device, disk, data sets, peer libraries, and two smoke tests."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["ok", "note", "fail"]

_VERDICTS: dict[str, Verdict] = {"ready": "ok", "missing": "note", "damaged": "fail"}  # of a data set's status
_PEERS = {"pyautoattack": "core", "foolbox": "core", "cleverhans": "core", "torchattacks": "extra `peers`"}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        verdict: "note" for what works with a limit.
        found: what was seen.
    """

    name: str
    verdict: Verdict
    found: str

    def record(self) -> dict[str, str]:
        """Return the check as plain data."""
        return asdict(self)


def run_checks(data_dir: Path | None = None) -> list[Check]:
    """Run every check, in the order of the report."""
    checks = [_python(), _torch(), _device(), _precision(), _disk(), *_datasets(data_dir), *_peers()]
    for name, smoke in (("smoke test", _smoke), ("AutoAttack against the official", _audit)):
        checks.append(_attempt(name, smoke))
    return checks


def _python() -> Check:
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Check:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads, {cores} cores")


def _device() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("device", "note", "CPU only: the paper suites take days here, `digits` minutes")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("device", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")


def _precision() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("precision", "ok", "fp32 (a CPU never trains in less); curvature checks in fp64")
    words = ["fp32", *(["tf32"] if torch.cuda.get_device_capability() >= (8, 0) else [])]
    return Check("precision", "ok", ", ".join([*words, *(["bf16"] if torch.cuda.is_bf16_supported() else [])]))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", "ok" if free > 1 else "fail", f"{free:.1f} GiB free in the current folder")


def _datasets(data_dir: Path | None) -> list[Check]:
    from bench.data.catalog import available

    found = []
    for entry in available(data_dir):
        verdict = _VERDICTS[entry.status]
        found.append(Check(f"data set {entry.name}", verdict, entry.found or entry.reason))
    return found


def _peers() -> list[Check]:
    found = []
    for name, part in _PEERS.items():
        there = importlib.util.find_spec(name) is not None
        wanted = part == "core"
        verdict: Verdict = "ok" if there else ("fail" if wanted else "note")
        found.append(Check(f"peer {name}", verdict, "installed" if there else f"absent ({part})"))
    return found


def _attempt(name: str, smoke_test: Callable[[], tuple[bool, str]]) -> Check:
    started = time.monotonic()
    try:
        good, words = smoke_test()
    except Exception as error:  # any failure is a line of the report
        good, words = False, f"{type(error).__name__}: {error}"
    return Check(name, "ok" if good else "fail", f"{words} ({time.monotonic() - started:.1f} s)")


@functools.cache
def _small_model() -> tuple[Any, Any, Any]:
    """Train the standard defense on 500 digits for 4 epochs, once; return it with 32 test images and labels."""
    import torch

    from bench.core import registry
    from bench.core.recipe import PAPER, Recipe
    from bench.data import catalog
    from bench.training.loop import TrainJob, train

    digits = catalog.load("digits", train_limit=500, limit=32)
    entry = registry.defenses.get("standard")
    recipe = PAPER.with_overrides(Recipe(epochs=4, batch_size=50, schedule="onecycle", augment="none"))
    job = TrainJob(entry, dict(entry.hyperparameters), recipe, "convnet", 10, digits.shape, 0, digits.train)
    model = train(job, torch.device("cpu"))
    return model, torch.tensor(digits.test.images), torch.tensor(digits.test.labels)


def _smoke() -> tuple[bool, str]:
    from bench.api.tables import evaluate

    model, x, y = _small_model()
    table = evaluate(model, data=(x, y), evaluations=["accuracy", "pgd_l2", "curvature"], eps=0.5)
    clean, robust = table["clean_correct"].mean(), table["pgd_l2_0.5_robust"].mean()
    words = (
        f"4 epochs on 500 digits: clean {clean:.0%}, PGD at 0.5 {robust:.0%}, curvature {table['curvature'].mean():.3g}"
    )
    return bool(clean > 0.5 and robust <= clean), words


def _audit() -> tuple[bool, str]:
    from bench.core import registry

    model, x, y = _small_model()
    entry = registry.evaluations.get("autoattack_l2")
    settings = {"seed": 0, "eps": [0.5], "n_queries": 500}  # a tenth of Square's: it breaks hardly anything here
    ours = _robust_flags(entry.function(model, x[:8], y[:8], **settings))
    official = _robust_flags(entry.function(model, x[:8], y[:8], **settings, peer="pyautoattack"))
    differ = int((ours != official).sum())
    return differ == 0, f"8 images at 0.5: {differ} verdicts differ, {int(ours.sum())} robust"


def _robust_flags(columns: Mapping[str, Any]) -> Any:
    return next(v for k, v in columns.items() if k.endswith("_robust"))
