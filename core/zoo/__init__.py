"""vae-zoo: a plugin-based model zoo for variational autoencoders.

The public names are listed in ``__init__.pyi``. Each is imported on first use, so that ``import zoo`` is light.
"""

import os
import pkgutil
import sys

import lazy_loader

# Distributions can add modules to the package: a folder `zoo` without an `__init__.py` on the path, such as that of
# `zoo.sklearn`.
__path__ = pkgutil.extend_path(__path__, __name__)

# Read by OpenMP when torch is first imported: waiting threads spin for a millisecond at most, because longer spinning
# makes small networks several times slower on a busy machine.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
