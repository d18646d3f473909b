"""Which machinery is at work on a call: the layers have a fast way for the plain case and a general one."""

from __future__ import annotations

import contextlib

import torch


def functorch_active() -> bool:
    """Return whether a torch.func transform (vmap, grad, jvp, …) is running; True where torch does not tell.

    An autograd.Function that torch.func accepts costs some 40 µs more per call (torch binds its signature each
    time), so it is used only there.
    """
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is None or bool(active())


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which nothing is cast to half precision: norms of weights need their digits."""
    return torch.autocast(device.type, enabled=False) if autocast_on(device) else contextlib.nullcontext()


def autocast_on(device: torch.device) -> bool:
    """Return whether operations on a device are cast now; False on "meta", where torch has no autocast."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
