"""How images and masks find each other: a rule reads the id of a case, and the part of it that a file is, from its path."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.data.case import Pixels
from segkit.data.io.base import Array, ReadError, suffix_of
from segkit.system.text import readable

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
          "testing": "test"}  # fmt: skip
"""Names of the subsets of a split, and ours."""
IMAGE_PARTS, MASK_PARTS = ("channel",), ("structure", "instance")


@dataclass(frozen=True)
class Name:
    """What a path says: the id of the case, the part that the file is of it, and the subset of the split; the latter may be empty."""

    id: str
    part: tuple[str, ...] = ("",)
    split: str = ""


@dataclass(frozen=True)
class Rule:
    """Which files below a folder are images, or masks, and what their paths say.

    Args:
        folder: What the pattern sees the path below of, without extension.
        pattern: Regular expression of the end of this path, with a group `id` (further ones id2, id3 are joined to it) and, where
            wanted, `split` and the `parts`.
        parts: Names of the groups that tell apart the files of one case.
        text: What messages call the rule.
    """

    folder: Path
    pattern: re.Pattern[str]
    parts: tuple[str, ...] = ()
    text: str = ""

    @classmethod
    def of(cls, folder: Path, pattern: str, parts: tuple[str, ...]) -> Rule:
        """A rule as typed. Raises `ValueError` where it is no regular expression, or has other groups than it may."""
        try:
            whole = re.compile(rf"(?:.*?/)??(?:{pattern})", re.DOTALL)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression ({error})") from error
        named = set(whole.groupindex)
        if "id" not in named:
            raise ValueError(f"{pattern!r} has no group (?P<id>…), which is what image and mask share")
        known = {"split", *parts, *(name for name in named if re.fullmatch(r"id\d*", name))}
        if other := sorted(named - known):
            raise ValueError(f"{pattern!r} has a group {other[0]}; known are id, id2, {', '.join(('split', *parts))}")
        return cls(folder, whole, tuple(part for part in parts if part in named), pattern)

    @classmethod
    def suffix(cls, folder: Path, suffix: str) -> Rule:
        """The rule of a folder whose files are called KEY and `suffix`; where a folder is the case, KEY/suffix."""
        return cls(folder, re.compile(rf"(?P<id>.+?)/?{re.escape(unicodedata.normalize('NFC', suffix))}", re.DOTALL))

    def name(self, path: Path) -> Name | None:
        """What the path says; None where it does not fit."""
        return self.read(name_below(path, self.folder))

    def read(self, name: str) -> Name | None:
        """The same of a path that is text already."""
        found = self.pattern.fullmatch(name)
        if found is None:
            return None
        groups = {name: text or "" for name, text in found.groupdict().items()}
        split = groups.get("split", "")
        ids = [groups[name] for name in sorted(groups) if name.startswith("id") and groups[name]]
        id_ = "_".join(ids)
        parts = tuple(groups[part] for part in self.parts) or ("",)
        return Name(f"{split}/{id_}" if split else id_, parts, SPLITS.get(split.lower(), "")) if id_ else None


def name_below(path: Path, folder: Path) -> str:
    """Path below a folder without extension, with composed accents, so that a file copied from a Mac finds its pair."""
    text, above = str(path), str(folder)
    name = text[len(above) + 1 :].replace(os.sep, "/") if text.startswith(f"{above}{os.sep}") else path.relative_to(folder).as_posix()
    name = name.removesuffix(suffix_of(path.name))
    return name if name.isascii() else unicodedata.normalize("NFC", readable(name))


@dataclass(frozen=True)
class Found:
    """Files by id and part, and those of which several claim one place."""

    one: Mapping[str, Mapping[tuple[str, ...], Path]]
    several: Mapping[str, tuple[Path, ...]]
    splits: Mapping[str, str]

    @classmethod
    def of(cls, files: Iterable[Path], rule: Rule) -> Found:
        by_name: dict[tuple[str, tuple[str, ...]], list[Path]] = defaultdict(list)
        splits = {}
        for path in files:
            if name := rule.name(path):
                by_name[name.id, name.part].append(path)
                splits[name.id] = name.split
        one: dict[str, dict[tuple[str, ...], Path]] = {}
        several: dict[str, tuple[Path, ...]] = {}
        for (id_, part), paths in by_name.items():
            if len(paths) > 1:
                several[id_] = tuple(paths)
            else:
                one.setdefault(id_, {})[part] = paths[0]
        return cls({id_: parts for id_, parts in one.items() if id_ not in several}, several, splits)

    def __contains__(self, id_: str) -> bool:
        return id_ in self.one or id_ in self.several


@dataclass(frozen=True)
class Merged:
    """A mask in several files, one an object: the largest value at each pixel."""

    parts: tuple[Pixels, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for part in self.parts for path in part.paths)

    def read(self) -> Array:
        merged = np.array(self.parts[0].read())
        for part in self.parts[1:]:
            array = part.read()
            if array.shape != merged.shape:
                ours, its = (" x ".join(map(str, shape)) for shape in (array.shape, merged.shape))
                raise ReadError(part.paths[0], f"is {ours}, {self.parts[0].paths[0].name} of the same image {its}")
            merged = np.maximum(merged, array)
        return merged


def by_structure(masks: Mapping[tuple[str, ...], Pixels], parts: Sequence[str]) -> Pixels | dict[str, Pixels] | None:
    """The mask of a case from its files by part: one, or one a structure; objects of one structure become one mask."""
    grouped: dict[str, list[Pixels]] = defaultdict(list)
    for part, mask in masks.items():
        named = dict(zip(parts, part, strict=False))
        grouped[named.get("structure", "")].append(mask)
    planes = {name: members[0] if len(members) == 1 else Merged(tuple(members)) for name, members in grouped.items()}
    return planes.get("") if "structure" not in parts else planes or None
