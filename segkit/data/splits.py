"""Which cases train, which validate, which test. Cases of one group always stay together.

Random splits depend on the seed, on the group names and, where they are stratified, on the counts of mask pixels. They use
the raw stream of PCG64, which numpy keeps the same for ever and everywhere (NEP 19), rather than its `permutation`, which it
may improve.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segkit.config import schema
from segkit.data.case import Case, Manifest
from segkit.data.statistics import CaseFacts
from segkit.system.errors import Problem, ProblemsFound, nearest
from segkit.system.files import natural, write_text_atomic

SIDES = ("train", "val", "test")
_SPOKEN = {"train": "train", "val": "validation", "test": "test"}
Facts = Mapping[str, CaseFacts]
Groups = dict[str, list[str]]
"""Case ids by group."""
Sides = Mapping[str, Sequence[str]]
"""Case ids by side."""
Strata = Mapping[str, tuple[int, ...]]
"""Of each group: which classes it shows (1 or 0, the rarest class first), and how large they are (quintile). Empty: all are alike."""
SIZES = 5
GOLDEN = 0x9E3779B9
"""2^32 over the golden ratio: the multiples of it, modulo 2^32, spread evenly however many of them are taken (Knuth, 6.4)."""


@dataclass(frozen=True)
class Split:
    """Case ids by side, in natural order; `manifest_hash` says for which state of the data it was made.

    `excluded` cases are on no side: the data set says that they are not fit to learn from (`facts["excluded"]`).
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...] = ()
    kind: str = "file"
    seed: int = 0
    manifest_hash: str = ""
    excluded: tuple[str, ...] = ()
    grouped: bool = True
    """False: one patient may be on several sides, because someone asked for it."""

    def ids(self, side: str) -> tuple[str, ...]:
        return {"train": self.train, "val": self.val, "test": self.test}[side]

    def as_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def to_json(self, path: Path) -> None:
        write_text_atomic(path, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> Split:
        return cls.from_dict(_read_json(path), str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "split") -> Split:
        """Also a hand-written one that holds just {"train": [ids], "val": [ids]}. `where` is named in the errors."""
        sides = {side: data.get(side, []) for side in SIDES}
        lists = {**sides, "excluded": data.get("excluded", [])}
        wrong = [side for side, ids in lists.items() if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids)]
        if wrong or "train" not in data or "val" not in data:
            fix = 'write {"train": ["ID", ...], "val": ["ID", ...], "test": []}'
            raise ProblemsFound([Problem(where, "is not a split: lists of ids (text) named train and val are wanted", fix)])
        kind, hash_ = str(data.get("kind", "file")), str(data.get("manifest_hash", ""))
        split = cls.of(sides, kind, int(data.get("seed", 0)), hash_, lists["excluded"])
        return replace(split, grouped=bool(data.get("grouped", True)))

    @classmethod
    def of(cls, sides: Sides, kind: str, seed: int, manifest_hash: str, excluded: Sequence[str] = ()) -> Split:
        train, val, test = (tuple(sorted(sides[side], key=natural)) for side in SIDES)
        return cls(train, val, test, kind, seed, manifest_hash, tuple(sorted(excluded, key=natural)))


def make_split(manifest: Manifest, config: schema.Split, facts: Facts | None = None) -> Split:
    """The split that `config` asks for, stratified if `facts` are there; raises ProblemsFound where there can be none.

    Cases that the data set itself calls its test set stay that, unless it names validation cases too and another split is
    asked for; the other kinds then divide the rest.
    """
    excluded = [case.id for case in manifest if is_excluded(case)]
    usable = replace(manifest, cases=tuple(case for case in manifest if not is_excluded(case)))
    kind = _resolve(usable, config.kind)
    if kind == "file":
        return _from_file(manifest, config, excluded)
    test = [case.id for case in usable if case.split == "test"] if kind != "given" and _is_test_given(usable) else []
    rest = replace(usable, cases=tuple(case for case in usable if case.id not in set(test)))
    make = {"given": _given, "holdout": _holdout, "kfold": _kfold, "leave_one_out": _leave_one_out}[kind]
    groups = _groups(rest, config.grouped)
    wanted = config.model_copy(update={"test_fraction": 0.0}) if test else config
    sides = make(rest, groups, wanted, strata(rest, groups, facts) if facts and config.stratify else {})
    split = Split.of({**sides, "test": [*sides["test"], *test]}, kind, config.seed, manifest.hash, excluded)
    return replace(split, grouped=config.grouped)


def is_excluded(case: Case) -> bool:
    return str(case.facts.get("excluded", "")).lower() not in ("", "0", "0.0", "false", "no")


def check_split(manifest: Manifest, split: Split, facts: Facts) -> list[Problem]:
    """What would make the numbers wrong: leaks between the sides, sides or classes that are empty."""
    return [
        *_empty_sides(split),
        *_groups_apart(manifest, split),
        *_same_pixels(split, facts),
        *_classes_absent(manifest, split, facts),
    ]


# making one


def _resolve(manifest: Manifest, kind: str) -> str:
    """auto: the data set's own split, else its own folds, else holdout; also where it names nothing but a test set."""
    if kind != "auto":
        return kind
    if any(case.split for case in manifest) and not _is_test_given(manifest):
        return "given"
    rest = [case for case in manifest if case.split != "test"]
    return "kfold" if rest and all("fold" in case.facts for case in rest) else "holdout"


def _is_test_given(manifest: Manifest) -> bool:
    """The data set names test cases, but none to validate on."""
    sides = {case.split for case in manifest}
    return "test" in sides and "val" not in sides


def _groups(manifest: Manifest, grouped: bool) -> Groups:
    """With `grouped=False` each case by itself."""
    groups: Groups = {}
    for case in manifest:
        groups.setdefault(case.group_or_id if grouped else case.id, []).append(case.id)
    return groups


def _shuffled(groups: Groups, seed: int) -> list[str]:
    names = sorted(groups)
    keys = np.atleast_1d(np.random.PCG64(seed).random_raw(len(names)))
    return [names[i] for i in np.argsort(keys, kind="stable")]


def strata(manifest: Manifest, groups: Groups, facts: Facts) -> Strata:
    """Groups of one stratum show the same classes, and about as much of them."""
    classes = {id_: facts[id_].class_pixels(manifest.labels) for ids in groups.values() for id_ in ids}
    shown = {name: Counter({c: sum(classes[id_][c] for id_ in ids) for c in manifest.labels.classes}) for name, ids in groups.items()}
    in_groups = {c: sum(counts[c] > 0 for counts in shown.values()) for c in manifest.labels.classes}
    rarest_first = sorted(manifest.labels.classes, key=lambda c: in_groups[c])
    pixels = {name: sum(m.pixels for id_ in ids for m in list(facts[id_].masks.values())[:1]) for name, ids in groups.items()}
    size = {name: counts.total() / max(1, pixels[name]) for name, counts in shown.items()}
    ordered = sorted(share for share in size.values() if share) or [0.0]
    steps = [ordered[len(ordered) * k // SIZES] for k in range(1, SIZES)]
    return {name: (*(int(counts[c] > 0) for c in rarest_first), sum(size[name] > step for step in steps)) for name, counts in shown.items()}


def _interleaved(groups: Groups, strata: Strata, seed: int) -> list[str]:
    """Random order of which every beginning holds all strata in about their shares."""
    order = _shuffled(groups, seed)
    if len(set(strata.values())) < 2:
        return order
    start = int(np.random.PCG64(seed).random_raw()) & 0xFFFFFFFF
    alike = sorted(order, key=lambda name: strata[name], reverse=True)
    spread = {name: (start + i * GOLDEN) & 0xFFFFFFFF for i, name in enumerate(alike)}
    return sorted(alike, key=lambda name: spread[name])


def _given(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Sides:
    without = [case.id for case in manifest if not case.split]
    if without:
        what = f"{len(without)} of {len(manifest)} cases have no split of their own, e.g. {without[0]}"
        raise ProblemsFound([Problem("split.kind=given", what, "give every case one, or use  split=holdout")])
    sides = {side: [case.id for case in manifest if case.split == side] for side in SIDES}
    if not sides["train"] or not sides["val"]:
        missing = _SPOKEN["train" if not sides["train"] else "val"]
        counts = ", ".join(f"{len(ids)} {_SPOKEN[side]}" for side, ids in sides.items())
        problem = Problem("split.kind=given", f"the data set names no {missing} case ({counts})", "use  split=holdout")
        raise ProblemsFound([problem])
    return sides


def _holdout(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Sides:
    order = _interleaved(groups, strata, config.seed)
    wanted = 2 + (config.test_fraction > 0)
    if len(order) < wanted or config.val_fraction <= 0 or config.val_fraction + config.test_fraction >= 1:
        raise ProblemsFound([_no_holdout(manifest, groups, config, wanted)])
    test = _pick(groups, order, config.test_fraction * len(manifest), at_most=len(order) - 2) if wanted == 3 else []
    order = [name for name in order if name not in set(test)]
    val = _pick(groups, order, config.val_fraction * len(manifest), at_most=len(order) - 1)
    train = [name for name in order if name not in set(val)]
    return {"train": _members(groups, train), "val": _members(groups, val), "test": _members(groups, test)}


def _no_holdout(manifest: Manifest, groups: Groups, config: schema.Split, wanted: int) -> Problem:
    if len(groups) < wanted:
        unit = "case" if len(groups) == len(manifest) else "group"
        what = f"{wanted} sides need {wanted} groups, there {_are(len(groups), unit)} ({len(manifest)} images)"
        fix = "add data, or check how the source finds groups;   split.grouped=false  ignores them (scores will be too good)"
        return Problem("split=holdout", what, fix)
    if config.val_fraction <= 0:
        return Problem("split.val_fraction", "is 0: nothing is left to validate on", "split.val_fraction=0.2")
    what = f"is {config.val_fraction}, test_fraction {config.test_fraction}: nothing is left to train on"
    return Problem("split.val_fraction", what, "split.val_fraction=0.2")


def _pick(groups: Groups, order: Sequence[str], wanted: float, at_most: int) -> list[str]:
    """Groups with about `wanted` cases in total, as near as whole groups allow; at least one group, at most `at_most`.

    Walking along the random order usually meets the number; where it does not, the sums that are reachable are found by
    dynamic programming (bit i of `reachable[k]`: the first k groups can make i cases).
    """
    target = max(1, round(wanted))
    picked: list[str] = []
    total = 0
    for name in order:
        if total + len(groups[name]) <= target and len(picked) < at_most:
            picked.append(name)
            total += len(groups[name])
    if total == target:
        return picked
    single = [min(order, key=lambda name: abs(len(groups[name]) - target))]
    reached = [names for names in (_nearest_sum(groups, order, target), picked, single) if 0 < len(names) <= at_most]
    return min(reached, key=lambda names: abs(len(_members(groups, names)) - target))


def _nearest_sum(groups: Groups, order: Sequence[str], target: int) -> list[str]:
    sizes = [len(groups[name]) for name in order]
    everything = sum(sizes)
    window = (1 << min(everything, 2 * target + max(sizes) + 1)) - 1  # never all groups: the other side needs one
    reachable = [1]
    for size in sizes:
        reachable.append((reachable[-1] | reachable[-1] << size) & window)
    sums = [i for i in range(1, window.bit_length()) if reachable[-1] >> i & 1]
    left, picked = min(sums, key=lambda i: (abs(i - target), i)), []
    for k in range(len(order), 0, -1):
        if not reachable[k - 1] >> left & 1:
            picked.append(order[k - 1])
            left -= sizes[k - 1]
    return picked


def _kfold(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Sides:
    return _fold(_own_folds(manifest) or _balanced_folds(groups, config, strata), config.fold)


def _leave_one_out(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Sides:
    """Each group validates once, in natural order of their names."""
    if len(groups) < 2:
        raise ProblemsFound([Problem("split=leave_one_out", f"needs 2 groups, there {_are(len(groups), 'group')}", "add data")])
    return _fold([groups[name] for name in sorted(groups, key=natural)], config.fold)


def _fold(folds: Sequence[Sequence[str]], fold: int) -> Sides:
    if fold >= len(folds):
        what = f"is {fold}, but there are {len(folds)} folds, counted from 0"
        raise ProblemsFound([Problem("split.fold", what, f"split.fold={len(folds) - 1}")])
    train = [id_ for k, ids in enumerate(folds) for id_ in ids if k != fold]
    return {"train": train, "val": folds[fold], "test": []}


def _own_folds(manifest: Manifest) -> list[list[str]]:
    """The folds that the data set itself names, in natural order of their names; empty where it names none."""
    if not manifest.cases or not all("fold" in case.facts for case in manifest):
        return []
    folds: Groups = {}
    for case in manifest:
        folds.setdefault(str(case.facts["fold"]), []).append(case.id)
    return [folds[name] for name in sorted(folds, key=natural)] if len(folds) > 1 else []


def _balanced_folds(groups: Groups, config: schema.Split, strata: Strata) -> list[list[str]]:
    """Stratum after stratum, largest groups first, each into the fold that has the fewest cases of the stratum, then at all."""
    if len(groups) < config.n_folds:
        what = f"{config.n_folds} folds need {config.n_folds} groups, there {_are(len(groups), 'group')}"
        raise ProblemsFound([Problem("split.n_folds", what, f"split.n_folds={max(2, len(groups))}")])
    folds: list[list[str]] = [[] for _ in range(config.n_folds)]
    dealt: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for name in sorted(_shuffled(groups, config.seed), key=lambda name: (strata.get(name, ()), len(groups[name])), reverse=True):
        stratum = strata.get(name, ())
        k = min(range(len(folds)), key=lambda k: (dealt[k, stratum], len(folds[k])))
        folds[k].extend(groups[name])
        dealt[k, stratum] += len(groups[name])
    return folds


def _from_file(manifest: Manifest, config: schema.Split, excluded: Sequence[str]) -> Split:
    if config.path is None:
        raise ProblemsFound([Problem("split.path", "is not set", "split.path=FILE, such as split.json of a run folder")])
    path = Path(config.path).expanduser()
    split = Split.from_json(path)
    split = replace(split, excluded=tuple(sorted({*split.excluded, *excluded}, key=natural)))
    problems = [*_stale(manifest, split, path), *_wrong_ids(manifest, split, path)]
    if problems:
        raise ProblemsFound(problems)
    return replace(split, kind="file", manifest_hash=manifest.hash)


def _stale(manifest: Manifest, split: Split, path: Path) -> list[Problem]:
    if split.manifest_hash in ("", manifest.hash):
        return []
    what = f"was made for another state of the data ({split.manifest_hash}, now {manifest.hash}): files came, went or changed"
    return [Problem(str(path), what, "make a new one with  split=holdout, or delete manifest_hash from the file if it is still right")]


def _wrong_ids(manifest: Manifest, split: Split, path: Path) -> list[Problem]:
    side_of: dict[str, str] = {}
    problems = []
    for side in SIDES:
        for id_ in split.ids(side):
            if id_ not in manifest.by_id:
                problems.append(Problem(str(path), f"{id_!r} in {side} is no case", nearest(id_, manifest.by_id) or "remove it"))
            elif id_ in side_of:
                where = f"twice in {side}" if side_of[id_] == side else f"in {side_of[id_]} and in {side}"
                problems.append(Problem(str(path), f"{id_!r} stands {where}", "keep one"))
            elif id_ in split.excluded and side != "test":
                problems.append(Problem(str(path), f"{id_!r} in {side} is one that the data set excludes", "remove it"))
            side_of.setdefault(id_, side)
    missing = [case.id for case in manifest if case.id not in side_of and case.id not in split.excluded]
    if missing:
        what = f"{len(missing)} of {len(manifest)} cases are on no side, e.g. {', '.join(map(repr, missing[:3]))}"
        problems.append(Problem(str(path), what, "add them, or leave them out with data.exclude"))
    return problems


# checking one


def exclude_line(ids: Sequence[str]) -> str:
    """What to type to leave cases out; quoted, since 012 would lose its zero."""
    quoted = ",".join(f'"{id_}"' for id_ in ids)
    return f"data.exclude='[{quoted}]'"


def _empty_sides(split: Split) -> list[Problem]:
    return [Problem("split", f"no case is in {_SPOKEN[side]}", "use  split=holdout") for side in ("train", "val") if not split.ids(side)]


def _sides_of(split: Split) -> dict[str, str]:
    return {id_: side for side in SIDES for id_ in split.ids(side)}


def _groups_apart(manifest: Manifest, split: Split) -> list[Problem]:
    side_of, problems = _sides_of(split), []
    by_group: dict[str, dict[str, Case]] = {}
    for case in manifest:
        if case.group and case.id in side_of:
            by_group.setdefault(case.group, {}).setdefault(side_of[case.id], case)
    for group, sides in by_group.items():
        if len(sides) > 1:
            where = " and ".join(f"{_SPOKEN[side]} ({sides[side].id})" for side in SIDES if side in sides)
            problems.append(Problem(f"group {group}", f"in {where}", "use  split=holdout  (it keeps groups whole)"))
    if problems and not split.grouped:
        what = f"{len(problems)} groups are on several sides, as split.grouped=false wants it: scores will be too good"
        return [Problem("split.grouped", what, "split.grouped=true", "warning")]
    return problems


def _same_pixels(split: Split, facts: Facts) -> list[Problem]:
    """Byte-identical images on both sides; an empty slice is like any other, so these do not count."""
    by_content: dict[str, list[str]] = {}
    side_of, problems = _sides_of(split), []
    for id_ in side_of:
        if id_ in facts and facts[id_].sha1 and not facts[id_].is_blank:
            by_content.setdefault(facts[id_].sha1, []).append(id_)
    for ids in by_content.values():
        if len({side_of[id_] for id_ in ids}) > 1:
            where = " and ".join(f"{_SPOKEN[side_of[id_]]} ({id_})" for id_ in ids)
            problems.append(Problem(f"image {ids[0]}", f"the same pixels are in {where}", exclude_line(ids[1:])))
    return problems


def _classes_absent(manifest: Manifest, split: Split, facts: Facts) -> list[Problem]:
    """Classes that one side lacks; what no case has at all, the audit tells."""
    present = {
        side: {name for id_ in split.ids(side) if id_ in facts for name, n in facts[id_].class_pixels(manifest.labels).items() if n}
        for side in SIDES
        if split.ids(side)
    }
    return [
        Problem(f"class {name}", f"no {_SPOKEN[side]} case has it", "try another split.seed", "warning")
        for side, names in present.items()
        for name in manifest.labels.classes
        if name not in names and any(name in others for others in present.values())
    ]


def _members(groups: Groups, names: Sequence[str]) -> list[str]:
    return [id_ for name in names for id_ in groups[name]]


def _are(n: int, unit: str) -> str:
    return f"is 1 {unit}" if n == 1 else f"are {n} {unit}s"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProblemsFound([Problem("split.path", f"{path} is missing", "name an existing split file")]) from None
    except (OSError, ValueError) as error:
        raise ProblemsFound([Problem("split.path", f"{path} cannot be read ({error})", "it must be JSON")]) from error
    if not isinstance(data, dict):
        raise ProblemsFound([Problem("split.path", f"{path} holds no JSON object", 'write {"train": [...], "val": [...]}')])
    return data
