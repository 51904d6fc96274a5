"""`python -m segkit` is `segkit`."""

from segkit.cli import main

raise SystemExit(main())
