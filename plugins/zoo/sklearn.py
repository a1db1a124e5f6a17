"""A scikit-learn estimator of any model of the zoo.

This file adds a module to the package `zoo`, which extends its search path and does not know the modules it has.
"""

from zoo_sklearn.estimator import VAE as VAE

__all__ = ["VAE"]
