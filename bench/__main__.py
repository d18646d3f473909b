"""`python -m bench`, and the script `bench`: Ctrl-C ends with 130 and one line from the first moment on.

OpenMP reads how its threads wait when torch loads it, so that is set before anything else is imported. By default a
thread that waits for its next part of an operator spins, and takes the core from whatever else runs on the machine.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Load the command line and run it; until it is loaded, Ctrl-C ends the process at once, as nothing is held yet."""
    signal.signal(signal.SIGINT, _leave)
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from bench.cli.app import main as command

    command()
    sys.exit()


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process without unwinding modules that are half loaded."""
    os.write(2, b"stopped by Ctrl-C before anything was computed.\n")
    os._exit(130)


if __name__ == "__main__":
    main()
