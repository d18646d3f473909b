"""bench: an adversarial-robustness benchmark. The public Python surface, loaded on first use.

`import bench` must stay cheap and free of torch, so that reports can be rebuilt on a laptop
without it; every public name is therefore resolved lazily.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.version import VERSION

if TYPE_CHECKING:
    from bench.api.results import load_model, load_results
    from bench.api.robustbench import benchmark
    from bench.api.tables import evaluate
    from bench.api.wrap import wrap
    from bench.core.decorators import attack, defense, evaluation
    from bench.core.recipe import Recipe
    from bench.core.records import Adaptive, Column

__version__ = VERSION
__all__ = [
    "Adaptive",
    "Column",
    "Recipe",
    "attack",
    "benchmark",
    "defense",
    "evaluate",
    "evaluation",
    "load_model",
    "load_results",
    "wrap",
]

# In a bare checkout `models/`, `attacks/` and `reports/` are siblings of `bench/`; an installed wheel has them
# inside it. Adding the checkout's root to the search path gives both the same import names.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "models" / "defenses").is_dir():
    __path__.append(str(_root))

_HOME = {
    "benchmark": "bench.api.robustbench",
    "evaluate": "bench.api.tables",
    "wrap": "bench.api.wrap",
    "load_model": "bench.api.results",
    "load_results": "bench.api.results",
    "attack": "bench.core.decorators",
    "defense": "bench.core.decorators",
    "evaluation": "bench.core.decorators",
    "Adaptive": "bench.core.records",
    "Column": "bench.core.records",
    "Recipe": "bench.core.recipe",
}


def __getattr__(name: str) -> object:
    """Import the module that holds a public name when the name is first used.

    Args:
        name: one of `__all__`.

    Returns:
        The function or class.

    Raises:
        AttributeError: any other name.
    """
    if name not in _HOME:
        raise AttributeError(f"module 'bench' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
