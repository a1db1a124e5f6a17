"""What a trained model is worth, in numbers and pictures."""

from zoo_figures import figures

__all__ = ["figures"]
