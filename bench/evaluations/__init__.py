"""One file per evaluation: `(model, x, y) -> per-example columns`; a file dropped here is registered."""
