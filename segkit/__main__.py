"""`python -m segkit` is `segkit`."""

from segkit.cli.main import main

raise SystemExit(main())
