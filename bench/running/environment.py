"""Where a command runs: versions, device, commit. No host name, no path."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from bench.core import hashing
from bench.core.errors import MachineError, UsageError
from bench.core.text import one_line
from bench.core.version import VERSION
from bench.store.plan_record import EnvironmentRecord, IncludedFile
from bench.training.execution import ExecutionConfig

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "pyautoattack",
    "foolbox",
    "cleverhans",
)


def environment(device: torch.device, included: Sequence[str], execution: ExecutionConfig) -> EnvironmentRecord:
    """Return what ran: versions, device, commit. No host name, no path.

    Args:
        device: where models are trained and evaluated.
        included: paths of third-party files that were imported.
        execution: how a training step is carried out.
    """
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    commit, dirty = _commit()
    return EnvironmentRecord(
        bench=VERSION,
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=f"{platform.system()} {platform.machine()}",
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        threads=torch.get_num_threads(),
        commit=commit,
        dirty=dirty,
        packages=packages,
        included=tuple(IncludedFile(file=one_line(Path(p).name), sha256=hashing.sha256(Path(p))) for p in included),
        step=execution.step_mode(device),
        deterministic=execution.deterministic or device.type == "cpu",
    )


def _commit() -> tuple[str, bool | None]:
    """Return the checkout's commit and whether it was changed; "" and None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "", None
    try:
        call = ["git", "-C", str(root)]
        head = subprocess.run([*call, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*call, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "", None
    return (head.stdout.strip(), bool(status.stdout.strip())) if head.returncode == 0 else ("", None)


def command_line() -> str:
    """Return the command that was typed, without places of this machine, for records that travel.

    Of an absolute path the name stays if it has an ending, as a file's has; any other is written DIR. Characters that
    cannot be printed are left out.
    """
    portable = (name + sign + _no_place(value) for name, sign, value in (a.rpartition("=") for a in sys.argv[1:]))
    return one_line(shlex.join(["python", "-m", "bench", *portable]))


def _no_place(text: str) -> str:
    path = Path(text)
    return text if not path.is_absolute() else path.name if path.suffix else "DIR"


def choose_device(name: str, where: str = "--device") -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:i".

    Args:
        name: the device's name.
        where: what an error message begins with.

    Raises:
        UsageError: another word.
        MachineError: a GPU was asked for and is not there. Never a silent fall-back to the CPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()) or (kind == "cpu" and index):
        raise UsageError(f"{where}: expected auto, cpu, cuda or cuda:i, got {name!r}. Choose one of them.")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise MachineError(f"{where} {name}: expected a GPU, found {torch.cuda.device_count()}. Use the CPU here.")
    return torch.device(name)
