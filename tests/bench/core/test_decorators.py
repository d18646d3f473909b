"""What `@defense` accepts as title, link, venue and year of a method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.core import registry
from bench.core.decorators import defense
from bench.core.errors import UsageError
from bench.core.records import Defense


def decorated(**facts: Any) -> Defense:
    """Register a defense and return its entry."""

    def mine_alone(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> None:
        """Build nothing."""

    defense(source="Somebody 2026", **facts)(mine_alone)
    return registry.defenses.get("mine_alone")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Take out again what a test has registered."""
    yield
    registry.defenses._entries.pop("mine_alone", None)


def test_what_is_said_of_the_paper_is_kept_in_one_line() -> None:
    entry = decorated(title=" My\ndefense\x1b[31m", link="https://example.org/p", venue="ICML", year=2026)
    assert (entry.title, entry.link, entry.venue, entry.year) == (
        "My defense[31m",
        "https://example.org/p",
        "ICML",
        2026,
    )


def test_nothing_need_be_said() -> None:
    entry = decorated()
    assert (entry.title, entry.link, entry.venue, entry.year) == ("", "", "", None)


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "example.org", "https://a b", "ftp://example.org", "https://a\n"]
)
def test_a_link_that_is_no_address_of_a_page_is_refused(link: str) -> None:
    with pytest.raises(UsageError, match=r"mine_alone: link: expected an address that begins with https://"):
        decorated(link=link)


@pytest.mark.parametrize("year", [22, 20266, True, "soon"])
def test_a_year_is_a_year(year: object) -> None:
    with pytest.raises(UsageError, match=r"mine_alone: year: expected a whole number"):
        decorated(year=year)


def test_list_defenses_says_it_too() -> None:
    from bench.cli import listing

    decorated(title="Mine", link="https://example.org/p", venue="ICML", year=2026)
    found = {record["name"]: record for record in listing.entries("defenses")}
    assert found["mine_alone"]["title"] == "Mine"
    assert (found["lcnn"]["venue"], found["lcnn"]["year"]) == ("NeurIPS", 2022)
    assert found["lcnn"]["link"] == "https://arxiv.org/abs/2206.07144"
