"""Facts on disk: a folder a data set, in it files of JSON lines, each with the signature of a case before its facts.

Whoever measures adds files of its own, so that any number of processes and machines may share the folder, and a kill costs
what was measured in the last seconds. The files become one again when all facts are read.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from segkit.system.files import write_text_atomic

SUFFIX = ".jsonl"
MOST_FILES = 8
Lines = dict[str, str]
"""JSON by signature."""


def read(folder: Path, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Of these cases what there is; a line that cannot be understood is as good as none."""
    for path in files(folder):
        for signature, text in lines(path):
            if signature in wanted:
                with suppress(ValueError):
                    yield signature, json.loads(text)


def add(folder: Path, facts: Mapping[str, Any]) -> None:
    write(folder, {signature: json.dumps(fact) for signature, fact in facts.items()})


def tidy(folder: Path, wanted: Collection[str]) -> None:
    """One file instead of many. What was not wanted goes where it is more than half: files that changed, or are gone."""
    before = files(folder)
    known = [signature for path in before for signature, _ in lines(path)]
    stale = len(set(known) - set(wanted))
    grown = stale > len(wanted)
    if len(before) <= MOST_FILES and not grown:
        return
    write(folder, {signature: text for path in before for signature, text in lines(path) if signature in wanted or not grown})
    for path in before:  # not what others have added meanwhile
        path.unlink(missing_ok=True)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def lines(path: Path) -> Iterator[tuple[str, str]]:
    with suppress(FileNotFoundError, UnicodeDecodeError), path.open(encoding="utf-8") as file:  # tidied up by another process
        for line in file:
            signature, _, text = line.partition("\t")
            yield signature, text


def write(folder: Path, facts: Lines) -> None:
    name = f"{secrets.token_hex(8)}{SUFFIX}"
    write_text_atomic(folder / name, "".join(f"{signature}\t{text.strip()}\n" for signature, text in facts.items()))
