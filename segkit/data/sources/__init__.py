"""Sources: one small class an on-disk layout. A source finds files and pairs them; it decodes nothing.

`conf/data/*.yaml` name these classes in `data.source._target_`. They may import `io`, `slices` and `phantoms` of this folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
