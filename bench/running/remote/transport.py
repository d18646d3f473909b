"""How orders reach the processes that compute them: what an engine for a cluster has to provide."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, TypeAlias

Ticket: TypeAlias = Any  # what a transport knows an order by


class Transport(Protocol):
    """Carries orders to processes without a store. Its methods may be called from any thread."""

    def put(self, content: bytes) -> str:
        """Make a blob available to every worker, once per content, and return its SHA-256."""
        ...

    def keep_only(self, names: Collection[str]) -> None:
        """Drop the blobs that have another SHA-256 than these: no order needs them."""
        ...

    def submit(self, order: bytes) -> Ticket:
        """Send an order; it is sent again by itself where the process that computes it dies."""
        ...

    def answer(self, ticket: Ticket, seconds: float) -> bytes | None:
        """Return the reply to an order; None if there is none within so many seconds.

        Raises:
            MachineError: there will be none: processes died over it again and again, or the cluster is gone.
        """
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Give an order up."""
        ...

    def drop(self, ticket: Ticket) -> None:
        """Forget the reply to an order, which was a failure: the next command asks again."""
        ...

    def close(self) -> None:
        """Give every order up; whoever waits for an answer gets a MachineError."""
        ...
