"""vae-zoo: a plugin-based model zoo for variational autoencoders.

The public names are listed in ``__init__.pyi``. Each is imported on first use, so that ``import zoo`` is light.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
