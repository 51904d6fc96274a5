"""Where Hydra 1.3 looks for sweepers: the package `hydra_plugins`, which all plugins share and which has no `__init__.py`.

pyproject.toml puts this folder on the path of an editable install, and this file beside `segkit` in a wheel.
"""

from __future__ import annotations

from segkit.training.sweeps import sweeper


class OptunaSweeper(sweeper.OptunaSweeper):
    """Hydra goes by the module that a class is defined in."""
