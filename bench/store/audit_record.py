"""Risk-limiting audits of a result folder, as `audit.json` keeps them beside the store."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from bench.core import files
from bench.core.errors import IntegrityError
from bench.core.stats.audit import AuditRule, Outcome, anytime_p, audit_order, conclude, upper_limit

AUDIT_FORMAT = 1
FILE_NAME = "audit.json"


class _Record(BaseModel):
    """A frozen record without unknown fields or silent conversions."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class AuditedModel(_Record):
    """One model of the board and its images that are counted robust.

    Attributes:
        run: its label, e.g. "lcnn seed 0".
        weights: SHA-256 of its weights.
        n: images on which it was attacked.
        robust: places in the test set of the images counted robust, ascending.
    """

    run: str
    weights: str
    n: int
    robust: tuple[int, ...]


class FrozenClaim(_Record):
    """Everything that is fixed before the public seed is drawn.

    The images of all models, one model after the other, are numbered 0, 1, …: these numbers are drawn.

    Attributes:
        column: the column that counts images robust.
        data: fingerprint of the test images.
        models: the list under audit.
        attack: everything that can change what the auditor's attack finds: evaluation, arguments, seed, sources.
        margin: share that may be broken, as a decimal fraction.
        risk: probability of confirming a false claim, as a decimal fraction.
    """

    column: str
    data: str
    models: tuple[AuditedModel, ...]
    attack: dict[str, JsonValue]
    margin: str
    risk: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the claim in canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def attack_name(self) -> str:
        """The evaluation that attacks, and whose implementation it is if not ours."""
        arguments, name = self.attack.get("arguments"), str(self.attack["evaluation"])
        peer = arguments.get("peer") if isinstance(arguments, dict) else None
        return f"{name} by {peer}" if peer else name

    @property
    def units(self) -> list[tuple[int, int]]:
        """(place in `models`, place of the image in the test set) of every number that can be drawn."""
        return [(place, image) for place, model in enumerate(self.models) for image in model.robust]

    @property
    def rule(self) -> AuditRule:
        """The decision rule."""
        return AuditRule(len(self.units), Fraction(self.margin), Fraction(self.risk))


class AuditHit(_Record):
    """An image counted robust that fell, or on which the attack failed.

    Attributes:
        draw: 1 for the first image drawn.
        number: its number in the frozen list.
        cause: the stage that broke it, or "failed: …".
    """

    draw: int
    number: int
    cause: str


class AuditRecord(_Record):
    """One audit: the frozen claim, the public seed, and how far it has come.

    Attributes:
        claim: what was frozen.
        claim_sha256: its SHA-256, taken before the seed was drawn.
        frozen_at: ISO 8601, UTC.
        seed: public; images are drawn in the order of SHA-256(f"{seed}:{number}").
        seed_source: "drawn" after freezing, or "given" by the user.
        draws: images attacked so far.
        hits: those that fell.
        statement: the conclusion in words, for readers of the file; it follows from the rest.
    """

    claim: FrozenClaim
    claim_sha256: str
    frozen_at: str
    seed: int
    seed_source: Literal["drawn", "given"]
    draws: int = 0
    hits: tuple[AuditHit, ...] = ()
    statement: str = ""

    @property
    def outcome(self) -> Outcome:
        """What the audit concludes."""
        return conclude(self.claim.rule, self.draws, [hit.draw for hit in self.hits])

    @property
    def p(self) -> float:
        """Anytime-valid p-value of "the claim is false"."""
        return anytime_p(self.claim.rule, self.draws, [hit.draw for hit in self.hits])

    @property
    def upper_limit(self) -> int:
        """At most so many images fall to the attack, with confidence 1 − risk."""
        rule = self.claim.rule
        return upper_limit(rule.images, rule.risk, self.draws, [hit.draw for hit in self.hits])

    def order(self) -> list[int]:
        """Return the numbers of the frozen list in the order in which they are drawn."""
        return audit_order(self.seed, range(self.claim.rule.images))


class AuditFile(_Record):
    """All audits of a folder, oldest first. None is ever removed: each further one of a claim adds its risk."""

    format: int = Field(default=AUDIT_FORMAT, ge=AUDIT_FORMAT, le=AUDIT_FORMAT)
    audits: tuple[AuditRecord, ...] = ()


def load_audits(out: Path) -> AuditFile:
    """Return the audits of a result folder; none if there is no file.

    Args:
        out: the result folder.

    Raises:
        IntegrityError: the file is damaged, or a claim is not the one that was frozen.
    """
    path = out / FILE_NAME
    if not path.is_file():
        return AuditFile()
    try:
        found = AuditFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        problems = [f"{why} in audit {n}" for n, audit in enumerate(found.audits, 1) if (why := _problem(audit))]
        if not problems:
            return found
        problem = problems[0]
    raise IntegrityError(f"{path}: expected sound audits, got {problem}. Restore the file.")


def _problem(audit: AuditRecord) -> str:
    """Return what speaks against an audit, "" if nothing does."""
    if audit.claim.sha256 != audit.claim_sha256:
        return "a changed claim"
    try:
        images = audit.claim.rule.images
    except (ValueError, ZeroDivisionError):
        return "a claim that cannot be audited"
    drawn = [hit.draw for hit in audit.hits]
    if not 0 <= audit.draws <= images or drawn != sorted(set(drawn)) or not set(drawn) <= {*range(1, audit.draws + 1)}:
        return "impossible draws"
    order = audit.order() if drawn else []
    return "" if all(order[hit.draw - 1] == hit.number for hit in audit.hits) else "an image out of its turn"


def save_audits(out: Path, content: AuditFile) -> None:
    """Write the audits of a result folder.

    Args:
        out: the result folder.
        content: all of its audits.
    """
    files.write_text(out / FILE_NAME, content.model_dump_json(indent=1) + "\n")
