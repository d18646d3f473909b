"""The command `evaluate`: a trained model of somebody else through the same evaluations. Not built yet."""

from __future__ import annotations

import typer

from bench.core.errors import UsageError

commands = typer.Typer()


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def evaluate() -> None:
    """Put a trained model of your own on the board (comes later; today: `bench.evaluate` in Python)."""
    raise UsageError(
        "evaluate: expected a command that exists, got one that comes later. Use bench.evaluate in Python."
    )
