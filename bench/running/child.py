"""A process of its own for code that is not ours: what it does to itself ends a cell, never the command.

The child gets tasks and gives events over a pipe; it has no store. It says that it is alive whenever the network is
called or a training step ends. It is killed, with every process that it has started, where it says nothing for too
long, or goes on after it was asked to stop.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from bench.core import discovery
from bench.core.errors import BenchError, OutOfMemoryError, Stopped
from bench.core.printed import PrintedLines
from bench.core.processes import die_with_parent, how_it_ended, kill_group
from bench.core.text import described
from bench.core.user_code import Origin
from bench.running.tasks import CallTask, Emit, Event, Returned, Stop, Task, from_bytes, to_bytes

if TYPE_CHECKING:
    from bench.running.compute import Computer

SILENT_SECONDS: Final = 600.0  # without a sign of life a child counts as hanging
START_SECONDS: Final = 300.0  # for a child to start, before any code of third parties runs in it
GRACE_SECONDS: Final = 10.0  # for a child that was asked to stop, without a sign of life
_POLL_SECONDS, _LOOK_SECONDS, _BEAT_SECONDS = 0.1, 0.05, 0.5

Request = Literal["chunk", "now"]  # stop after the chunk, or within it


class ChildError(BenchError):
    """Code in a child failed; the message is the cause, and `__cause__` the child's traceback."""


class ChildTraceback(Exception):
    """The traceback of an exception in a child, as text."""


class Child:
    """A child process, from the side of the command.

    Args:
        origins: third parties' code that it imports.
        threads: of torch.
        silent_seconds: how long it may say nothing.
        log: called with a line of its output.
    """

    def __init__(
        self, origins: Sequence[Origin], threads: int, silent_seconds: float, log: Callable[[str], None]
    ) -> None:
        context = multiprocessing.get_context("forkserver") if warm_up() else multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        reader, writer = context.Pipe(duplex=False)
        self._silent, self._busy, self._started = silent_seconds, False, False
        self._process = context.Process(
            target=_serve, args=(theirs, writer, tuple(origins), threads), daemon=False, name="bench child"
        )
        self._process.start()
        theirs.close()
        writer.close()
        self._reader = reader
        self._output = PrintedLines(reader.fileno(), log)
        self._output.start()

    def compute(self, task: Task | CallTask, emit: Emit, stop: Stop) -> None:
        """Compute a task in the child.

        Args:
            task: what is computed.
            emit: called with each event; what it raises ends the child.
            stop: asked all the time whether to stop.

        Raises:
            Stopped: it was asked to stop; a child that did not in time is killed.
            ChildError: the task failed, the process ended, or it said nothing for too long.
            OutOfMemoryError: memory ran out.
            BenchError: as in the child.
        """
        self._busy = True
        with contextlib.suppress(OSError):  # it is dead, which is found out below
            self._line.send_bytes(to_bytes(task))
        heard, asked = time.monotonic(), ""
        while True:
            message = self._next(task.label)
            now = time.monotonic()
            if message is not None:
                heard, self._started = now, True
                if _is_over(message, emit):
                    self._busy = False
                    return
            wish = ("now" if stop.at_once() else "chunk") if stop() else ""
            if wish != asked:
                asked, heard = wish, now
                with contextlib.suppress(OSError):
                    self._line.send_bytes(to_bytes(wish))
            if asked and now - heard > GRACE_SECONDS:
                raise Stopped(f"stopped; {task.label} did not stop by itself, and its process was ended.")
            if now - heard > (self._silent if self._started else START_SECONDS):
                raise ChildError(
                    f"expected a sign of life, which is a training step or a pass through the network, within "
                    f"{self._silent:g} s, got none. Its process was ended; --hang-limit allows more."
                )

    def _next(self, label: str) -> object | None:
        """Return the next message; None if there is none yet.

        Raises:
            ChildError: the child has ended.
            OutOfMemoryError: the system has killed it.
        """
        try:
            if self._line.poll(_POLL_SECONDS):
                return from_bytes(self._line.recv_bytes())  # type: ignore[no-any-return]
            if self._process.is_alive():
                return None
        except (EOFError, OSError):
            pass
        self._process.join(GRACE_SECONDS)
        code = self._process.exitcode
        how = how_it_ended(code)
        if code == -signal.SIGKILL:
            raise OutOfMemoryError(
                f"expected a result, got the end of its process by {how}. Use a smaller --batch-size or more memory."
            )
        raise ChildError(f"expected a result, got the end of its process by {how}. Fix its code.")

    def close(self) -> None:
        """End the child."""
        if not self._busy:
            with contextlib.suppress(OSError):
                self._line.close()  # it ends by itself, and may clean up
            self._process.join(1.0)
        if self._process.pid is not None:
            kill_group(self._process.pid)
        self._process.join()
        self._output.join(1.0)
        if not self._output.is_alive():
            self._reader.close()
        self._line.close()

    @property
    def usable(self) -> bool:
        """Whether it waits for a task."""
        return not self._busy and self._process.is_alive()


def warm_up() -> bool:
    """Start the server from which children are copied, if there is none; return whether there can be one."""
    if not sys.platform.startswith("linux"):
        return False
    forkserver.set_forkserver_preload(["bench.running.warm"])
    try:
        with _checkout_on_path():
            forkserver.ensure_running()
    except OSError:  # its socket has no place, e.g. where the path of temporary files is too long
        return False
    return True


@contextlib.contextmanager
def _checkout_on_path() -> Iterator[None]:
    """Have new processes find this copy of bench, from whichever folder the command runs."""
    old, root = os.environ.get("PYTHONPATH"), str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, old]))
    try:
        yield
    finally:
        if old is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old


def _is_over(message: object, emit: Emit) -> bool:
    """Take a message of the child.

    Returns:
        Whether its task is done.

    Raises:
        BenchError: the task has failed.
    """
    if isinstance(message, _Failure):
        raise message.error() from ChildTraceback(message.traceback)
    if isinstance(message, _Result):
        emit(message.event)
    return message == "done"


class _Result:
    """An event on its way."""

    def __init__(self, event: Event) -> None:
        self.event = event


class _Failure:
    """An exception on its way: bench's own as they are, others as text."""

    def __init__(self, error: BaseException) -> None:
        self.traceback = "".join(traceback.format_exception(error))
        ours = isinstance(error, BenchError | Stopped) and type(error).__module__.startswith("bench.")
        self.kind: type[BenchError | Stopped] = type(error) if ours else ChildError  # type: ignore[assignment]
        self.message = str(error) if isinstance(error, BenchError | Stopped) else described(error)
        if isinstance(error, SystemExit):
            self.message = f"expected a result, got sys.exit({error.code!r}). Raise an exception instead."

    def error(self) -> BenchError | Stopped:
        """Return the exception to raise."""
        return self.kind(self.message)


class _Requests:
    """The child's end of the pipe: sends, says that it is alive, and listens whether to stop."""

    def __init__(self, line: Connection) -> None:
        self._line, self._lock = line, threading.Lock()
        self._asked: Request | Literal[""] = ""
        self._looked = self._said = 0.0

    def send(self, message: object) -> None:
        """Send a message."""
        with self._lock:
            self._line.send_bytes(to_bytes(message))

    def emit(self, event: Event) -> None:
        """Send an event."""
        self.send(_Result(event))

    def begin(self) -> None:
        """Forget what was asked of the last task."""
        self._asked = ""

    def __call__(self) -> bool:
        """Tell whether to stop after this chunk or step."""
        self._look()
        return bool(self._asked)

    def at_once(self) -> bool:
        """Tell whether to stop within a chunk."""
        self._look()
        return self._asked == "now"

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        while self._line.poll():
            self._asked = from_bytes(self._line.recv_bytes())
        if now - self._said > _BEAT_SECONDS:
            self._said = now
            self.send("alive")


def _serve(line: Connection, output: Connection, origins: Sequence[Origin], threads: int) -> None:
    """Be the child: import third parties' code, then compute tasks until the pipe is closed."""
    _settle(output)
    import torch

    from bench.running import machine
    from bench.running.compute import Computer

    machine.keep_memory()
    torch.set_num_threads(threads)
    requests, computer, loaded = _Requests(line), Computer(), False
    requests.send("alive")
    while True:
        try:
            content = line.recv_bytes()
        except EOFError:
            return
        requests.begin()
        try:
            if not loaded:
                discovery.load(origins)
                loaded = True
            _carry_out(from_bytes(content), computer, requests)
            requests.send("done")
        except BaseException as error:  # sys.exit() in third parties' code included
            requests.send(_Failure(error))


def _carry_out(task: Task | CallTask, computer: Computer, requests: _Requests) -> None:
    """Compute a task, or call its function; passes through any network are signs of life of a call."""
    if not isinstance(task, CallTask):
        computer.compute(task, requests.emit, requests)
        return
    from torch.nn.modules.module import register_module_forward_hook

    def look(*_: object) -> None:
        if requests.at_once():
            raise Stopped(f"stopped within {task.label}.")

    handle = register_module_forward_hook(look)
    try:
        requests.emit(Returned(task.function(*task.arguments)))
    finally:
        handle.remove()


def _settle(output: Connection) -> None:
    """Arrange that the process ends with the command, is the first to go when memory runs out, and prints to a pipe."""
    if sys.platform != "win32":
        os.setsid()
    if (alive := getattr(forkserver._forkserver, "_forkserver_alive_fd", None)) is not None:
        os.close(alive)  # else the server would outlive a killed command as long as this process lives
        forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]
    die_with_parent()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's business
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
