"""The command `verify`: the saved adversarial examples scored anew. Not built yet."""

from __future__ import annotations

import typer

from bench.core.errors import UsageError

commands = typer.Typer()


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def verify() -> None:
    """Re-score the saved adversarial examples (comes later)."""
    raise UsageError("verify: expected a command that exists, got one that comes later. Use `run` again meanwhile.")
