"""Metrics of one case and class on the original grid, the tables and summaries of them, and the comparison of two runs.

To add a metric: a class as `CaseMetric` in `base.py` describes, in the file of its kind (`surface.py`: distances of borders), a
line in `__init__.pyi`, and an option in `conf/metric/`.

Imports `data`, `config` and `system`, never torch. Metrics are imported when they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
