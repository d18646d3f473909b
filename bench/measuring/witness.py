"""A copy of this process that has seen no image: what a model answers there depends on no question before."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import struct
import sys
import warnings
from typing import NoReturn

import torch
from torch import Tensor, nn

from bench.core.processes import die_with_parent, kill_group

SECONDS = 60.0  # for an answer
OPEN_FILES = 256
_HEAD = struct.Struct("<q")  # length of a message


class Witness:
    """Answers for a model as it was when the copy was made; a context manager, which ends the copy.

    A model that remembers what it was asked, in whatever state, answers otherwise than its copy. Made before the first
    question; use `start`.
    """

    def __init__(self, pid: int, questions: int, answers: int) -> None:
        self._pid, self._questions, self._answers = pid, questions, answers

    @classmethod
    def start(cls, model: nn.Module) -> Witness | None:
        """Copy this process.

        Args:
            model: in eval mode when it is asked, on the CPU.

        Returns:
            The copy; None where there can be none: no Linux, or a GPU is in use, which a copy cannot reach.
        """
        if not sys.platform.startswith("linux") or torch.cuda.is_initialized():
            return None
        question, answer = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the copy has one thread of this process
            pid = os.fork()
        if pid == 0:
            os.close(question[1])
            os.close(answer[0])
            _serve(model, question[0], answer[1])
        os.close(question[0])
        os.close(answer[1])
        return cls(pid, question[1], answer[0])

    def __enter__(self) -> Witness:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the copy."""
        self.close()

    def logits(self, x: Tensor) -> Tensor | None:
        """Return the copy's logits (B, K) for images x (B, C, H, W); None where it gives none within a minute."""
        content = pickle.dumps(x.detach().cpu().numpy())
        try:
            os.write(self._questions, _HEAD.pack(len(content)))  # raises where the copy has ended
            _write(self._questions, content)
            if not select.select([self._answers], [], [], SECONDS)[0]:
                return None
            found = _message(self._answers)
        except OSError:
            return None
        return None if found is None else torch.from_numpy(pickle.loads(found)).to(x.device)

    def close(self) -> None:
        """End the copy."""
        for descriptor in (self._questions, self._answers):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        kill_group(self._pid)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _serve(model: nn.Module, questions: int, answers: int) -> NoReturn:
    """Answer questions in the copy until there are no more, and leave without cleaning up what is not the copy's."""
    try:
        die_with_parent()
        os.setsid()
        for descriptor in set(range(3, OPEN_FILES)) - {questions, answers}:  # pipes and locks are not the copy's
            with contextlib.suppress(OSError):
                os.close(descriptor)
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        torch.set_num_threads(1)  # threads of a pool do not outlive a fork
        model.eval()
        with torch.no_grad():
            while (content := _message(questions)) is not None:
                logits = pickle.dumps(model(torch.from_numpy(pickle.loads(content))).float().numpy())
                os.write(answers, _HEAD.pack(len(logits)))
                _write(answers, logits)
    finally:
        os._exit(0)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _message(descriptor: int) -> bytes | None:
    """Return the next message, None at the end."""
    head = _read(descriptor, _HEAD.size)
    return None if head is None else _read(descriptor, _HEAD.unpack(head)[0])


def _read(descriptor: int, count: int) -> bytes | None:
    """Return so many bytes, None if they do not come."""
    parts: list[bytes] = []
    while count:
        part = os.read(descriptor, count)
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
