"""What a config may say, how it is composed, and what is built from it.

Imports `system` alone. `compose` and `overrides` are the only files here that know Hydra; opening a checkpoint needs neither.
"""
