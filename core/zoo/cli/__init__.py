"""The command line. ``__init__.pyi`` lists the names for commands of plugins; none of them imports torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
