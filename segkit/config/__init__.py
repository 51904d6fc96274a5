"""Configs: their schema, how they are composed and checked, and what is built from them.

Imports `system` alone. `compose` and `overrides` are the only files here that know Hydra; opening a checkpoint needs neither.
"""
