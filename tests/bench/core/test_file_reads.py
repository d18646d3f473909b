"""What third-party code reads while it is watched: paths in its calls are noted, whatever they are."""

from __future__ import annotations

import importlib.util
from pathlib import PurePosixPath

from bench.core.file_reads import recorded_reads


class Refuses(PurePosixPath):
    """A path that has no text."""

    def __fspath__(self) -> str:
        raise RuntimeError("no text")


def test_a_path_without_text_stops_nobody(tmp_path):
    """Python 3.12 builds a path by a call in which it has no text yet; a class of somebody's may raise anything."""
    (tmp_path / "read.json").write_text("{}")
    file = tmp_path / "theirs.py"
    file.write_text(
        "from pathlib import Path\n"
        "def passed(path):\n"
        "    return path\n"
        "found = Path(__file__).with_name('read.json').read_text()\n"
        "half_built = passed(object.__new__(type(Path())))\n"
        "refused = passed(REFUSES('x.json'))\n"
    )
    spec = importlib.util.spec_from_file_location("theirs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.REFUSES = Refuses
    with recorded_reads(tmp_path) as reads:
        spec.loader.exec_module(module)
    assert module.found == "{}"
    assert tmp_path / "read.json" in reads
