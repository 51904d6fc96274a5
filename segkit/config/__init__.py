"""Configs: their schema, how they are composed and checked, and what is built from them.

`overrides.py` reports mistyped keys, `messages.py` wrong values; the "did you mean" of both is `nearest` in `system/errors.py`.

Imports `system` alone. `compose` and `overrides` are the only files here that know Hydra; opening a checkpoint needs neither.
"""
