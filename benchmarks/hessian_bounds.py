r"""How tight the bounds of the loss's Hessian are beside each other, defense by defense, from a result folder.

    python -m bench run --suite digits --defense lcnn --defense lcnn_gradreg --defense softplus_wd --seeds 0 \
        --defense cayley:activation=softplus --evaluation accuracy --evaluation bounds --evaluation certificate
    python -m benchmarks.hessian_bounds --out results/digits [--json]

Medians over images of measured over bound (1: attained), and of the certified radii.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

BOUNDS = {
    "tightness_layer_matrix": "‖∇²f‖ / λ_max(M), layer bound at the image",
    "tightness_layer_elementwise": "the same, term by term",
    "tightness_compositional_anchored": "compositional, anchored at the image",
    "tightness_layer_data_free": "layer bound from weights",
    "tightness_compositional": "compositional, from weights",
    "tightness_jacobian_anchored": "‖Σq_k∇²z_k‖ / (c(x)‖q‖)",
    "tightness_jacobian": "‖Σq_k∇²z_k‖ / (c‖q‖)",
    "certified_radius_lipschitz": "radius from L",
    "certified_radius_curvature": "radius from c(x)",
}


def medians(examples: pd.DataFrame) -> pd.DataFrame:
    """Return the median of every quantity over the images and seeds of each defense, a column per defense.

    Args:
        examples: examples.parquet of a result folder.
    """
    known = [name for name in BOUNDS if name in examples]
    return examples.groupby("defense", sort=False)[known].median().T


def main() -> None:
    """Print the table of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="a result folder")
    parser.add_argument("--json", action="store_true", help="as JSON")
    given = parser.parse_args()
    table = medians(pd.read_parquet(given.out / "examples.parquet"))
    if given.json:
        print(json.dumps(table.to_dict(), indent=1))
        return
    print("| | " + " | ".join(table.columns) + " |")
    for name, values in table.iterrows():
        print(f"| {BOUNDS[str(name)]} | " + " | ".join(f"{v:.2g}" for v in values) + " |")


if __name__ == "__main__":
    main()
