"""What a module may do when training begins an epoch or ends: `set_epoch` and `finalize`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from bench.core.errors import UsageError


@runtime_checkable
class EpochAware(Protocol):
    """A module with a number that depends on the epoch."""

    def set_epoch(self, epoch: int) -> bool:
        """Take the value of an epoch, counted from 0, and return whether it differs from the one before."""


@runtime_checkable
class Finalizable(Protocol):
    """A module with an estimate that is finished after training, e.g. spectral vectors."""

    def finalize(self) -> None:
        """Finish the estimate; the module is in eval mode."""


def set_epoch(model: nn.Module, epoch: int) -> bool:
    """Call `set_epoch` of every module that has it.

    Args:
        model: the network.
        epoch: the epoch that begins, counted from 0.

    Returns:
        Whether a number has changed that a recorded or compiled step holds.

    Raises:
        UsageError: a module's `set_epoch` does not return whether something has changed.
    """
    changed = [_changed(module, epoch) for module in model.modules() if isinstance(module, EpochAware)]
    return any(changed)


def _changed(module: EpochAware, epoch: int) -> bool:
    """Return a module's answer."""
    changed = module.set_epoch(epoch)
    if not isinstance(changed, bool):
        raise UsageError(
            f"{type(module).__name__}.set_epoch: expected True or False, got {changed!r}. "
            "Return whether a number that the network computes with has changed."
        )
    return changed


def finalize(model: nn.Module) -> None:
    """Go to eval mode, and call `finalize` of every module that has it."""
    model.eval()
    for module in list(model.modules()):
        if isinstance(module, Finalizable):
            module.finalize()
