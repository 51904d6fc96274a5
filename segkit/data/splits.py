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
from pydantic import ConfigDict, TypeAdapter, ValidationError

from segkit.config import schema
from segkit.data.case import Case, Manifest, grouped
from segkit.data.io.base import ReadError, read_json
from segkit.data.statistics import Statistics
from segkit.system.errors import Problem, ProblemsFound, first_line, nearest
from segkit.system.files import natural, write_text_atomic

SUBSETS = ("train", "val", "test")
IN_WORDS = {"train": "train", "val": "validation", "test": "test"}
Groups = dict[str, list[str]]
"""Case ids by group."""
Subsets = Mapping[str, Sequence[str]]
"""Case ids by subset."""
Strata = Mapping[str, tuple[int, ...]]
"""By group: which classes it shows (1 or 0, the rarest class first), and their size (quintile). Empty: all groups are alike."""
SIZES = 5
GOLDEN = 0x9E3779B9
"""2^32 over the golden ratio: the multiples of it, modulo 2^32, spread evenly however many of them are taken (Knuth, 6.4)."""


@dataclass(frozen=True)
class Split:
    """Case ids by subset, in natural order.

    Args:
        train: Ids of the training cases.
        val: Ids of the validation cases.
        test: Ids of the test cases.
        kind: How the split was made (`split.kind`).
        seed: Seed of a random split.
        manifest_hash: `Manifest.hash` of the data that it was made for.
        excluded: Ids in no subset: the data set calls them unfit to learn from (`facts["excluded"]`).
        grouped: False: one patient may be in several subsets, because `split.grouped=false` asked for it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...] = ()
    kind: str = "file"
    seed: int = 0
    manifest_hash: str = ""
    excluded: tuple[str, ...] = ()
    grouped: bool = True

    def ids(self, subset: str) -> tuple[str, ...]:
        """Ids of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[subset]

    @property
    def subset_of(self) -> dict[str, str]:
        """Subset by case id."""
        return {id_: subset for subset in SUBSETS for id_ in self.ids(subset)}

    def __post_init__(self) -> None:
        for name in (*SUBSETS, "excluded"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name), key=natural)))

    def as_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def to_json(self, path: Path) -> None:
        write_text_atomic(path, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> Split:
        """Read a split file. Raises ProblemsFound."""
        try:
            return cls.from_dict(read_json(path), str(path))
        except (ReadError, OSError) as error:
            raise ProblemsFound([Problem("split.path", str(error), "name a split file, such as split.json of a run folder")]) from None

    @classmethod
    def from_dict(cls, data: Any, where: str = "split") -> Split:
        """A split from `as_dict`, or a hand-written {"train": [ids], "val": [ids]}. Raises ProblemsFound, which names `where`."""
        try:
            return TypeAdapter(cls).validate_json(json.dumps(data))
        except ValidationError as error:
            detail = error.errors(include_url=False)[0]
            place = ".".join(map(str, detail["loc"])) or "it"
            what = f"is not a split ({place}: {first_line(detail['msg'])}): lists of ids (text) named train and val are needed"
            raise ProblemsFound([Problem(where, what, 'write {"train": ["ID", ...], "val": ["ID", ...], "test": []}')]) from None


def make_split(manifest: Manifest, config: schema.Split, statistics: Statistics | None = None) -> Split:
    """Make the split that `config` asks for.

    Cases that the data set itself calls its test set stay that, unless it names validation cases too and another split is
    asked for; the other kinds then divide the rest.

    Args:
        manifest: The labelled cases.
        config: The keys of `split`.
        statistics: Of the cases; without them the split is not stratified.

    Raises:
        ProblemsFound: The split file is wrong, or there are too few groups.
    """
    excluded = [case.id for case in manifest if is_excluded(case)]
    usable = replace(manifest, cases=tuple(case for case in manifest if not is_excluded(case)))
    kind = _resolve(usable, config.kind)
    if kind == "file":
        return _from_file(manifest, config, excluded)
    test = [case.id for case in usable if case.split == "test"] if kind != "given" and _only_test_given(usable) else []
    rest = replace(usable, cases=tuple(case for case in usable if case.id not in set(test)))
    groups = grouped((case.group_or_id if config.grouped else case.id, case.id) for case in rest)
    if test:
        config = config.model_copy(update={"test_fraction": 0.0})
    make = {"given": _given, "holdout": _holdout, "kfold": _kfold, "leave_one_out": _leave_one_out}[kind]
    subsets = make(rest, groups, config, _strata(rest, groups, statistics) if statistics and config.stratify else {})
    train, val = tuple(subsets["train"]), tuple(subsets["val"])
    return Split(train, val, (*subsets["test"], *test), kind, config.seed, manifest.hash, tuple(excluded), config.grouped)


def is_excluded(case: Case) -> bool:
    """Whether the data set itself calls the case unfit to learn from."""
    return str(case.facts.get("excluded", "")).lower() not in ("", "0", "0.0", "false", "no")


def _resolve(manifest: Manifest, kind: str) -> str:
    """auto: the data set's own split, else its own folds, else holdout; also where it names nothing but a test set."""
    if kind != "auto":
        return kind
    if any(case.split for case in manifest) and not _only_test_given(manifest):
        return "given"
    rest = [case for case in manifest if case.split != "test"]
    return "kfold" if rest and all("fold" in case.facts for case in rest) else "holdout"


def _only_test_given(manifest: Manifest) -> bool:
    """The data set names test cases, but none to validate on."""
    subsets = {case.split for case in manifest}
    return "test" in subsets and "val" not in subsets


def _shuffled(groups: Groups, seed: int) -> list[str]:
    names = sorted(groups)
    keys = np.atleast_1d(np.random.PCG64(seed).random_raw(len(names)))
    return [names[i] for i in np.argsort(keys, kind="stable")]


def _strata(manifest: Manifest, groups: Groups, statistics: Statistics) -> Strata:
    """Groups of one stratum show the same classes, and about as much of them."""
    labels = manifest.labels
    shown = {name: sum((Counter(statistics[id_].class_pixels(labels)) for id_ in ids), Counter[str]()) for name, ids in groups.items()}
    rarest_first = sorted(labels.classes, key=lambda c: sum(counts[c] > 0 for counts in shown.values()))
    pixels = {name: sum(m.pixels for id_ in ids for m in list(statistics[id_].masks.values())[:1]) for name, ids in groups.items()}
    size = {name: counts.total() / max(1, pixels[name]) for name, counts in shown.items()}
    ordered = sorted(share for share in size.values() if share) or [0.0]
    steps = [ordered[len(ordered) * k // SIZES] for k in range(1, SIZES)]
    return {name: (*(int(counts[c] > 0) for c in rarest_first), sum(size[name] > step for step in steps)) for name, counts in shown.items()}


def _interleaved(groups: Groups, strata: Strata, seed: int) -> list[str]:
    """Random order in which every prefix holds all strata in about their shares."""
    order = _shuffled(groups, seed)
    if len(set(strata.values())) < 2:
        return order
    start = int(np.random.PCG64(seed).random_raw()) & 0xFFFFFFFF
    alike = sorted(order, key=lambda name: strata[name], reverse=True)
    spread = {name: (start + i * GOLDEN) & 0xFFFFFFFF for i, name in enumerate(alike)}
    return sorted(alike, key=lambda name: spread[name])


def _given(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Subsets:
    without = [case.id for case in manifest if not case.split]
    if without:
        what = f"{len(without)} of {len(manifest)} cases have no split of their own, e.g. {without[0]}"
        raise ProblemsFound([Problem("split.kind=given", what, "give every case one, or use  split=holdout")])
    subsets = {subset: [case.id for case in manifest if case.split == subset] for subset in SUBSETS}
    if not subsets["train"] or not subsets["val"]:
        missing = IN_WORDS["train" if not subsets["train"] else "val"]
        counts = ", ".join(f"{len(ids)} {IN_WORDS[subset]}" for subset, ids in subsets.items())
        problem = Problem("split.kind=given", f"the data set names no {missing} case ({counts})", "use  split=holdout")
        raise ProblemsFound([problem])
    return subsets


def _holdout(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Subsets:
    order = _interleaved(groups, strata, config.seed)
    needed = 2 + (config.test_fraction > 0)
    if len(order) < needed or config.val_fraction <= 0 or config.val_fraction + config.test_fraction >= 1:
        raise ProblemsFound([_no_holdout(manifest, groups, config, needed)])
    test = _pick(groups, order, config.test_fraction * len(manifest), at_most=len(order) - 2) if needed == 3 else []
    order = [name for name in order if name not in set(test)]
    val = _pick(groups, order, config.val_fraction * len(manifest), at_most=len(order) - 1)
    train = [name for name in order if name not in set(val)]
    return {"train": _members(groups, train), "val": _members(groups, val), "test": _members(groups, test)}


def _no_holdout(manifest: Manifest, groups: Groups, config: schema.Split, needed: int) -> Problem:
    if len(groups) < needed:
        unit = "case" if len(groups) == len(manifest) else "group"
        what = f"{needed} subsets need {needed} groups, there {_are(len(groups), unit)} ({len(manifest)} images)"
        fix = "add data, or check how the source finds groups;   split.grouped=false  ignores them (scores will be too good)"
        return Problem("split=holdout", what, fix)
    if config.val_fraction <= 0:
        return Problem("split.val_fraction", "is 0: nothing is left to validate on", "split.val_fraction=0.2")
    what = f"is {config.val_fraction}, test_fraction {config.test_fraction}: nothing is left to train on"
    return Problem("split.val_fraction", what, "split.val_fraction=0.2")


def _pick(groups: Groups, order: Sequence[str], wanted: float, at_most: int) -> list[str]:
    """Groups with about `wanted` cases in total, as near as whole groups allow; at least one group, at most `at_most`."""
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
    """Subset sum by dynamic programming: bit i of `reachable[k]` says that the first k groups can make i cases."""
    sizes = [len(groups[name]) for name in order]
    everything = sum(sizes)
    window = (1 << min(everything, 2 * target + max(sizes) + 1)) - 1  # never all groups: the other subset needs one
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


def _kfold(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Subsets:
    """The folds that the data set itself names, in natural order of their names; else balanced ones."""
    own = grouped((str(case.facts["fold"]), case.id) for case in manifest if "fold" in case.facts)
    if len(own) > 1 and sum(map(len, own.values())) == len(manifest):
        return _fold([own[name] for name in sorted(own, key=natural)], config.fold)
    return _fold(_balanced_folds(groups, config, strata), config.fold)


def _leave_one_out(manifest: Manifest, groups: Groups, config: schema.Split, strata: Strata) -> Subsets:
    """Each group validates once, in natural order of their names."""
    if len(groups) < 2:
        raise ProblemsFound([Problem("split=leave_one_out", f"needs 2 groups, there {_are(len(groups), 'group')}", "add data")])
    return _fold([groups[name] for name in sorted(groups, key=natural)], config.fold)


def _fold(folds: Sequence[Sequence[str]], fold: int) -> Subsets:
    if fold >= len(folds):
        what = f"is {fold}, but there are {len(folds)} folds, counted from 0"
        raise ProblemsFound([Problem("split.fold", what, f"split.fold={len(folds) - 1}")])
    train = [id_ for k, ids in enumerate(folds) for id_ in ids if k != fold]
    return {"train": train, "val": folds[fold], "test": []}


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
    split = replace(split, excluded=tuple({*split.excluded, *excluded}))
    wrong = _wrong_ids(manifest, split)
    if split.manifest_hash not in ("", manifest.hash):
        what = f"was made for another state of the data ({split.manifest_hash}, now {manifest.hash}): files came, went or changed"
        wrong.insert(0, (what, "start a new training with  split=holdout,  or delete manifest_hash from the file if it is still right"))
    if wrong:
        raise ProblemsFound([Problem(str(path), what, fix) for what, fix in wrong])
    return replace(split, kind="file", manifest_hash=manifest.hash)


def _wrong_ids(manifest: Manifest, split: Split) -> list[tuple[str, str]]:
    """What is wrong and how to fix it."""
    seen: dict[str, str] = {}
    wrong = []
    for subset in SUBSETS:
        for id_ in split.ids(subset):
            if id_ not in manifest.by_id:
                wrong.append((f"{id_!r} in {subset} is not a case", nearest(id_, manifest.by_id) or "remove it"))
            elif id_ in seen:
                where = f"twice in {subset}" if seen[id_] == subset else f"in {seen[id_]} and in {subset}"
                wrong.append((f"{id_!r} is {where}", "keep one"))
            elif id_ in split.excluded and subset != "test":
                wrong.append((f"{id_!r} in {subset} is one that the data set excludes", "remove it"))
            seen.setdefault(id_, subset)
    missing = [case.id for case in manifest if case.id not in seen and case.id not in split.excluded]
    if missing:
        what = f"{len(missing)} of {len(manifest)} cases are in no subset, e.g. {', '.join(map(repr, missing[:3]))}"
        wrong.append((what, "add them, or leave them out with data.exclude"))
    return wrong


def _members(groups: Groups, names: Sequence[str]) -> list[str]:
    return [id_ for name in names for id_ in groups[name]]


def _are(n: int, unit: str) -> str:
    return f"is 1 {unit}" if n == 1 else f"are {n} {unit}s"
