"""Networks, the model around them (normalization, padding, activation), checkpoints, and weights of other programs.

Networks are plain torch modules. Imports `data`, `config` and `system`; what is exported here is imported when it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
