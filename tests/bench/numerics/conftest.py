"""The fixtures of the geometry's tests, shared with those of the evaluations."""

from tests.bench.evaluations.conftest import dense, images, lcnn, model, standard

__all__ = ["dense", "images", "lcnn", "model", "standard"]
