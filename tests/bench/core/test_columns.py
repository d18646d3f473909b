"""What a column may say of itself, and how patterns become concrete columns."""

from __future__ import annotations

import pytest

from bench.core.errors import UsageError
from bench.core.records import Column, expand_columns


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"role": "robusst"}, r"Column 'Q\.': expected a known role, got 'robusst'\. .*robust"),
        ({"kind": "flags"}, "expected a known kind, got 'flags'.*flag"),
        ({"aggregate": "avg"}, "expected a known aggregate, got 'avg'"),
        ({"direction": "up"}, "expected a known direction, got 'up'"),
        ({"interval": "t"}, "expected a known interval, got 't'"),
    ],
)
def test_a_word_that_there_is_not_is_refused_where_it_is_written(wrong, message) -> None:
    with pytest.raises(UsageError, match=message):
        Column("Q.", **wrong)


def test_a_wrong_column_of_an_included_file_ends_before_anything_is_made(cli, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "import bench\n"
        "@bench.evaluation(source='x', columns={'q': bench.Column('Q.', role='entropy')})\n"
        "def q(model, x, y, *, seed=0):\n"
        "    return {'q': y}\n"
    )
    out = tmp_path / "out"
    done = cli("run", "--suite", "digits", "--include", tmp_path / "mine.py", "--evaluation", "q", "--out", out)
    assert done.code == 2
    assert "expected a known role, got 'entropy'" in done.err
    assert "mine.py" in done.err
    assert not out.exists()


def test_a_placeholder_is_each_value_of_its_argument_and_a_counted_one_counts() -> None:
    columns = {
        "r_{eps}": Column("R.", board="r_{eps}", role="robust", params={"norm": "l2"}),
        "r_{eps}_share": Column("S.", companion_of="r_{eps}", companion="share"),
        "layer_{i}": Column("L."),
    }
    names = ["index", "r_0.5", "r_0.1", "r_0.5_share", "layer_0", "layer_1", "layer_3"]
    found = expand_columns(columns, {"eps": [0.1, 0.5]}, names)
    assert list(found) == ["r_0.5", "r_0.1", "r_0.5_share", "layer_0", "layer_1"]
    assert found["r_0.1"].params == {"norm": "l2", "eps": 0.1}
    assert found["r_0.1"].board == "r_0.1"
    assert found["r_0.5_share"].companion_of == "r_0.5"
    assert found["r_0.5"].pattern == "r_{eps}"
