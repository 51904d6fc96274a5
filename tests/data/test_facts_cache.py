"""The cache of facts, which any number of processes fill at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from segkit.data import facts_cache


def test_nothing_is_lost_where_many_write_and_one_tidies_up(tmp_path: Path) -> None:
    def write(i: int) -> None:
        facts_cache.add(tmp_path, {f"s{i}": {"n": i}})
        if i % 10 == 0:
            facts_cache.tidy(tmp_path, {f"s{i}" for i in range(100)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    everything = {f"s{i}" for i in range(100)}
    facts_cache.tidy(tmp_path, everything)
    assert dict(facts_cache.read(tmp_path, everything)) == {f"s{i}": {"n": i} for i in range(100)}


def test_many_files_become_one_and_facts_of_files_that_are_gone_do_not_pile_up(tmp_path: Path) -> None:
    for i in range(facts_cache.MOST_FILES + 1):
        facts_cache.add(tmp_path, {f"s{i}": i})
    facts_cache.tidy(tmp_path, {"s0", "s1", "s2", "s3", "s4"})
    assert len(facts_cache.files(tmp_path)) == 1
    assert dict(facts_cache.read(tmp_path, {"s0", "s8"})) == {"s0": 0, "s8": 8}
    facts_cache.tidy(tmp_path, {"s0"})  # most are not wanted any more
    assert dict(facts_cache.read(tmp_path, {"s0", "s8"})) == {"s0": 0}


def test_a_line_that_is_cut_off_is_as_good_as_none(tmp_path: Path) -> None:
    facts_cache.add(tmp_path, {"a": {"n": 1}, "b": {"n": 2}})
    (path,) = facts_cache.files(tmp_path)
    path.write_text(path.read_text()[:-4])
    assert dict(facts_cache.read(tmp_path, {"a", "b"})) == {"a": {"n": 1}}
    assert dict(facts_cache.read(tmp_path / "none", {"a"})) == {}
