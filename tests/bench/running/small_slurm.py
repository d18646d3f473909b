"""What the engine on Slurm needs of Slurm, on this machine: sbatch, srun, sacct, scancel, scontrol requeue.

Called by one of these names (`install`). Two tasks run at once. As Slurm does when it preempts, the first task to be
ready for it gets SIGTERM and SIGUSR2, and runs again once it has asked to be queued again.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

HOME = "SMALL_SLURM"  # folder of the state of every task


def install(folder: Path) -> dict[str, str]:
    """Write the commands to a folder; return the environment that finds them."""
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        path = folder / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        path.chmod(0o755)
    return {HOME: str(folder), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def sbatch(script: str) -> None:
    """Number a job, start it in the background and say its number."""
    home, number = Path(os.environ[HOME]), 100
    while True:
        with contextlib.suppress(FileExistsError):
            (home / f"job-{number}").mkdir()
            break
        number += 1
    (home / f"job-{number}" / "script").write_text(Path(script).read_text())
    subprocess.Popen(
        [sys.executable, __file__, "tasks", str(number)],
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(f"Submitted batch job {number}")


def tasks(number: str) -> None:
    """Run the tasks of a job, two at once."""
    folder = Path(os.environ[HOME], f"job-{number}")
    array = re.search(r"^#SBATCH --array=0-(\d+)", (folder / "script").read_text(), re.MULTILINE)
    with ThreadPoolExecutor(2) as pool:
        for index in range(int(array[1]) + 1) if array else [None]:
            pool.submit(_task, folder, number, index)


def _task(folder: Path, number: str, index: int | None) -> None:
    """Run a task, again for as long as it asks for that."""
    name = number if index is None else f"{number}_{index}"
    environment = {**os.environ, "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    if index is not None:
        environment |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
    while not (folder / f"{name}.CANCELLED").exists():
        (folder / f"{name}.RUNNING").touch()
        with subprocess.Popen(["bash", str(folder / "script")], env=environment, start_new_session=True) as process:
            (folder / f"{name}.pid").write_text(str(process.pid))
            _preempt(process)
        if (folder / f"{name}.again").exists():
            (folder / f"{name}.again").unlink()
            continue
        (folder / f"{name}.{'FAILED' if process.returncode else 'COMPLETED'}").touch()
        break


def _preempt(process: subprocess.Popen[bytes]) -> None:
    """End the first task of all that handles the signal of preemption."""
    preempted = Path(os.environ[HOME], "preempted")
    while process.poll() is None and not preempted.exists():
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(OSError, psutil.Error):
                caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{child.pid}/status").read_text(), re.MULTILINE)
                if "submitit" in " ".join(child.cmdline()) and caught and int(caught[1], 16) >> signal.SIGUSR2 - 1 & 1:
                    preempted.mkdir()
                    child.send_signal(signal.SIGTERM)
                    child.send_signal(signal.SIGUSR2)
                    return
        time.sleep(0.02)


def srun(*words: str) -> None:
    """Become a command, with its output in the files that are named."""
    assert (words[0], words[1], words[3]) == ("--unbuffered", "--output", "--error")
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    for stream, path in ((1, words[2]), (2, words[4])):
        for pattern, value in {"%A": array, "%a": task, "%j": job, "%t": "0"}.items():
            path = path.replace(pattern, value)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644), stream)
    os.execvp(words[5], words[5:])


def sacct(*words: str) -> None:
    """Say the state of every task of some jobs."""
    print("JobID|State|NodeList")
    for number in (words[i + 1] for i, word in enumerate(words) if word == "-j"):
        for state in ("RUNNING", "COMPLETED", "FAILED", "CANCELLED"):
            for path in sorted(Path(os.environ[HOME], f"job-{number}").glob(f"*.{state}")):
                print(f"{path.stem}|{state}|here")


def scancel(name: str, *_: str) -> None:
    """End a task."""
    folder = Path(os.environ[HOME], f"job-{name.partition('_')[0]}")
    (folder / f"{name}.CANCELLED").touch()
    with contextlib.suppress(OSError, ValueError):
        os.killpg(int((folder / f"{name}.pid").read_text()), signal.SIGKILL)


def scontrol(action: str, name: str) -> None:
    """Queue a task again."""
    assert action == "requeue"
    Path(os.environ[HOME], f"job-{name.partition('_')[0]}", f"{name}.again").touch()


def main(command: str, words: Sequence[str]) -> None:
    """Run one of the commands."""
    {"sbatch": sbatch, "tasks": tasks, "srun": srun, "sacct": sacct, "scancel": scancel, "scontrol": scontrol}[command](
        *words
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
