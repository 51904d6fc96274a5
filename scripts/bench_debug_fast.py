"""How long `segkit train experiment=PRESET debug=fast` takes, as a Markdown table.

    python scripts/bench_debug_fast.py [--presets quickstart …] [-- trainer.threads=1 …]

Each preset is a process of its own, from its imports to its report, on a phantom that it draws unless a preset before it has. Wall
seconds want a quiet machine; seconds of the processor say more on a busy one, but with one thread only, as waiting threads spin.
What follows `--` are overrides for all presets. Nothing is asserted, but that every run ends well.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time

from segkit.config.compose import groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="*", default=groups("train")["experiment"][1])
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    print("| preset | wall, s | processor, s |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            wall, spent = seconds([f"experiment={preset}", "debug=fast", f"output_dir={folder}", *options.overrides])
            print(f"| `{preset}` | {wall:.1f} | {spent:.1f} |", flush=True)


def seconds(keys: list[str]) -> tuple[float, float]:
    """Of the wall clock and of the processor, in user and system mode, over all processes of a training."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "segkit", "train", *keys], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
