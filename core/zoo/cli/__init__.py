"""The command line. ``__init__.pyi`` lists the public names, for the commands of plugins; none imports torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
