"""Metrics of one case and class on the original grid, the tables and summaries of them, and the comparison of two runs.

Imports `data`, `config` and `system`, never torch. Metrics are imported when they are used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
