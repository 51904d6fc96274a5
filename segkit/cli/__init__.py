"""The command line: `main` and the table of `commands`, one thin file per command, and the guides that `segkit guide` shows.

May import every folder. Nothing heavy is imported before a command needs it.
"""
