"""What tells two plans apart."""

from __future__ import annotations

import contextlib
import json

from bench.core.hashing import sha256_of


def plan_digest(text: str) -> str:
    """Return the SHA-256 of a plan's JSON text without the time at which it was made.

    Args:
        text: as the store keeps it; a damaged one has the digest of its text.
    """
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(text)
        if isinstance(content, dict):
            content.pop("created", None)
            text = json.dumps(content)
    return sha256_of(text.encode(errors="surrogatepass"))
