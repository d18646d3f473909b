"""What every worker of a cluster has found for an order: where one is computed twice, the findings are compared."""

from __future__ import annotations


class Ledger:
    """The findings of each order, by the first worker that has computed it; one process of a cluster has it."""

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._contradicted: dict[str, None] = {}

    def note(self, order: str, findings: str) -> None:
        """Note what a worker has found.

        Args:
            order: SHA-256 of the order.
            findings: SHA-256 of what its replies must agree in.
        """
        if self._found.setdefault(order, findings) != findings:
            self._contradicted[order] = None

    def contradictions(self) -> list[str]:
        """Return the orders that were computed with different findings."""
        return list(self._contradicted)
