"""Imports what every child process needs, once, in the server from which they are copied: a child starts in moments.

No code of third parties is imported here, no thread is started, no GPU touched.
"""

from __future__ import annotations

from bench.core import discovery
from bench.running import compute

discovery.import_shipped()

__all__ = ["compute"]
