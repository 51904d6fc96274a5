"""Shards of a list: nothing twice, nothing left out, whoever numbers the jobs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product
from pathlib import Path

import pytest

from segkit.config.compose import compose
from segkit.system.environment import Shard, from_environment, is_whole
from segkit.system.errors import ProblemsFound, SegkitError
from segkit.system.files import write_text_if_new

NAMES = [f"{volume}{z}" for volume in "abcdefg" for z in range(3)]


def test_every_item_is_in_one_part_with_all_of_its_unit() -> None:
    shares = [Shard(i, 3).share(NAMES, lambda name: name[0]) for i in (1, 2, 3)]
    assert sorted(name for share in shares for name in share) == NAMES
    assert shares[0] == [f"{volume}{z}" for volume in "adg" for z in range(3)]
    assert Shard(9, 9).share(NAMES, lambda name: name[0]) == []


def test_pieces_of_a_part_are_that_part() -> None:
    """So jobs may divide theirs as they like."""
    for part in (Shard(1, 1), Shard(1, 2), Shard(3, 3)):
        pieces = [part.piece(k, 3).share(NAMES, str) for k in (1, 2, 3)]
        assert sorted(name for piece in pieces for name in piece) == part.share(NAMES, str)


def test_what_overlaps_and_what_is_everything() -> None:
    every = [Shard(i, of) for of in range(1, 7) for i in range(1, of + 1)]
    held = {part: set(part.share(range(60), str)) for part in every}
    for part, other in product(every, every):
        assert part.overlaps(other) == bool(held[part] & held[other])
    for parts in combinations(every, 3):
        if not any(part.overlaps(other) for part, other in combinations(parts, 2)):
            assert is_whole(parts) == (set().union(*(held[part] for part in parts)) == set(range(60)))
    assert is_whole([Shard(1, 2), *(Shard(2, 2).piece(k, 3) for k in (1, 2, 3))])
    assert not is_whole([])


def array(task: int, first: int, count: int, step: int = 1) -> dict[str, str]:
    keys = {"ID": task, "MIN": first, "COUNT": count, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in keys.items()}


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        (array(0, 0, 4), Shard(1, 4)),
        (array(7, 1, 4, 2), Shard(4, 4)),
        (array(7, 7, 1), Shard(1, 1)),  # one job of the array once more does all that is missing
        ({"RANK": "3", "WORLD_SIZE": "8"}, Shard(4, 8)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Shard(2, 2)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "RANK": "3", "WORLD_SIZE": "8"}, Shard(4, 8)),
        ({**array(2, 1, 3), "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, Shard(5, 6)),
    ],
)
def test_auto_asks_who_started_the_jobs(environment: dict[str, str], part: Shard) -> None:
    assert from_environment(environment) == part


def test_auto_where_nobody_numbered_the_jobs_or_left_gaps() -> None:
    with pytest.raises(SegkitError, match="part=auto needs a SLURM array job, srun or torchrun"):
        from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})  # a batch script, not an srun step
    with pytest.raises(SegkitError, match="gaps"):
        from_environment(array(9, 1, 3))


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "3", "1/2/3", "-1/4", "1/0"])
@pytest.mark.parametrize("command", [("predict", "ckpt=a", "input=b", "output=c"), ("audit",)])
def test_a_part_that_is_none_is_one_error(text: str, command: tuple[str, ...]) -> None:
    with pytest.raises(ProblemsFound, match="is auto, or a share such as 1/4 to 4/4") as caught:
        compose(command[0], [*command[1:], f"part={text}"])
    assert [problem.where for problem in caught.value.problems] == ["part"]


def test_of_many_that_begin_at_once_one_is_first_and_all_read_the_same(tmp_path: Path) -> None:
    path = tmp_path / "claim.json"

    def begin(i: int) -> tuple[bool, int]:
        return write_text_if_new(path, json.dumps([i] * 1000)), json.loads(path.read_text())[0]

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(begin, range(64)))
    firsts = [i for i, (first, _) in enumerate(found) if first]
    assert len(firsts) == 1
    assert {seen for _, seen in found} == set(firsts)
    assert list(tmp_path.iterdir()) == [path]


def test_also_without_hard_links_only_one_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", none)
    path = tmp_path / "claim.json"
    assert write_text_if_new(path, "first")
    assert not write_text_if_new(path, "second")
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["claim.json"]
