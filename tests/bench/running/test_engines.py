"""Engines are found by their files."""

from __future__ import annotations

import importlib

import pytest

from bench.core.errors import UsageError
from bench.running import engines


@pytest.mark.parametrize("name", engines.names())
def test_every_engine_has_what_the_pipeline_calls(name: str) -> None:
    module = importlib.import_module(f"bench.running.engines.{name}")  # `load` also asks for its package
    assert callable(module.run)


def test_an_unknown_engine_is_refused_before_anything_is_read(cli, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"--engine: expected .*local.*, got 'locall'"):
        engines.load("locall")
    done = cli("run", "--suite", "digits", "--engine", "locall", "--out", tmp_path / "r", "--dry-run")
    assert done.code == 2
    assert "--engine: expected" in done.err
    assert not (tmp_path / "r").exists()


def test_an_address_needs_a_cluster(cli, tmp_path) -> None:
    done = cli("run", "--suite", "digits", "--address", "ray://x:1", "--out", tmp_path / "r")
    assert done.code == 2
    assert "--address: expected an engine that runs on a cluster, got --engine local" in done.err
