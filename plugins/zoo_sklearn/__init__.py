"""A scikit-learn estimator of any model of the zoo: ``from zoo.sklearn import VAE``."""
