"""No command asks the network for anything that it was not told to fetch."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every attempt to reach another machine fail, and return what was tried."""
    tried: list[str] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(repr(arguments[-1])[:200])
        raise OSError("no network")

    def connect(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX:
            return whole(self, address)
        return refuse(address)

    whole = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return tried


def test_no_command_reaches_for_the_network(
    cli: Callable[..., Any], weakly_attacked: Path, asked: list[str], tmp_path: Path
) -> None:
    out = shutil.copytree(weakly_attacked, tmp_path / "out")
    small = (
        "--suite",
        "digits",
        "--defense",
        "standard",
        "--seeds",
        0,
        "--epochs",
        1,
        "--train-limit",
        60,
        "--limit",
        4,
    )
    for command in (
        ("run", *small, "--evaluation", "accuracy", "--out", tmp_path / "new"),
        ("report", "--out", out),
        ("status", "--out", out),
        ("store", "check", "--out", out),
        ("compare", "standard", "lcnn", "--out", out),
        ("results", "pack", "--out", out, "--to", tmp_path / "pack", "--weights"),
        ("results", "unpack", tmp_path / "pack", "--out", tmp_path / "back"),
        ("verify", "--out", tmp_path / "pack"),
        ("list", "datasets"),
        ("audit", "--out", out, "--margin", "0.3", "--max-images", 2, "--defense", "standard"),
    ):
        done = cli(*command)
        assert done.code in (0, 75), (command, done.err)
    assert asked == []
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80))
    assert len(asked) == 1, "the test would have seen it"
