"""Tables of a prediction in parts: each job writes its own, and together they are the table of one job."""

from __future__ import annotations

from pathlib import Path

from segkit.inference.writers.tables import Table, begin, end
from segkit.system.environment import Shard

HEADER = ("case", "n")


def predict(output: Path, part: Shard | None, overwrite: bool = False, **rows: str) -> bool:
    """Writes a row for each case; whether the tables are whole now."""
    begin(output, part, overwrite)
    table = Table(output, "t.csv", HEADER, part)
    for case, n in rows.items():
        table.add({case: [(case, n)]})
    table.write()
    return end(output, part)


def whole(output: Path) -> str:
    return (output / "t.csv").read_text()


def test_the_last_part_puts_the_table_together_in_natural_order(tmp_path: Path) -> None:
    assert not predict(tmp_path, Shard(2, 2), c10="1", c1="2")
    assert not (tmp_path / "t.csv").exists()
    assert predict(tmp_path, Shard(1, 2), c2="3")
    assert whole(tmp_path) == "case,n\nc1,2\nc2,3\nc10,1\n"


def test_a_part_that_is_running_again_is_waited_for(tmp_path: Path) -> None:
    predict(tmp_path, Shard(1, 2), a="1")
    begin(tmp_path, Shard(1, 2))
    assert not predict(tmp_path, Shard(2, 2), b="1")
    assert predict(tmp_path, Shard(1, 2), a="2")
    assert whole(tmp_path) == "case,n\na,2\nb,1\n"


def test_without_part_everything_there_counts_and_what_was_written_last_wins(tmp_path: Path) -> None:
    predict(tmp_path, Shard(1, 3), a="1", b="1")
    predict(tmp_path, Shard(2, 4), b="2")
    assert Table(tmp_path, "t.csv", HEADER).known == Table(tmp_path, "t.csv", HEADER, Shard(3, 3)).known == {"a", "b"}
    assert predict(tmp_path, None, c="3")
    assert whole(tmp_path) == "case,n\na,1\nb,2\nc,3\n"
    assert predict(tmp_path, None, a="4")
    assert whole(tmp_path) == "case,n\na,4\nb,2\nc,3\n"


def test_a_part_without_images_ends_as_well(tmp_path: Path) -> None:
    assert not predict(tmp_path, Shard(1, 2), a="1")
    assert predict(tmp_path, Shard(2, 2))
    assert whole(tmp_path) == "case,n\na,1\n"


def test_jobs_with_unlike_numbers_of_devices_are_parts_of_one_prediction(tmp_path: Path) -> None:
    three = [Shard(1, 2).piece(k, 3) for k in (1, 2, 3)]
    assert not predict(tmp_path, three[0], a="1")
    assert not predict(tmp_path, Shard(2, 2), b="1")
    assert not predict(tmp_path, three[1], c="1")
    assert predict(tmp_path, three[2])
    assert whole(tmp_path) == "case,n\na,1\nb,1\nc,1\n"


def test_a_part_that_is_divided_otherwise_than_before_is_waited_for(tmp_path: Path) -> None:
    predict(tmp_path, Shard(1, 2), a="1")
    assert predict(tmp_path, Shard(2, 2), b="1")
    assert not predict(tmp_path, Shard(1, 4), a="2")
    assert predict(tmp_path, Shard(3, 4), c="1")
    assert whole(tmp_path) == "case,n\na,2\nb,1\nc,1\n"


def test_to_overwrite_all_parts_must_end_once_more(tmp_path: Path) -> None:
    predict(tmp_path, Shard(1, 2), a="1")
    predict(tmp_path, Shard(2, 2), b="1")
    assert not predict(tmp_path, Shard(2, 2), overwrite=True, b="2")
    assert whole(tmp_path) == "case,n\na,1\nb,1\n"
    assert predict(tmp_path, Shard(1, 2), overwrite=True, a="2")
    assert whole(tmp_path) == "case,n\na,2\nb,2\n"
    pieces = [*(Shard(1, 2).piece(k, 2) for k in (1, 2)), Shard(2, 2)]
    rows: list[dict[str, str]] = [{"a": "3"}, {}, {"b": "3"}]
    assert [predict(tmp_path, piece, overwrite=True, **row) for piece, row in zip(pieces, rows, strict=True)] == [False, False, True]
    assert whole(tmp_path) == "case,n\na,3\nb,3\n"
