"""`python scripts/train.py experiment=quickstart` is `segkit train experiment=quickstart`."""

import sys

from segkit.cli.main import main

raise SystemExit(main(["train", *sys.argv[1:]]))
