"""The version of the package, read by the build, the command line and every stored record."""

from __future__ import annotations

VERSION = "0.1.0"
