"""The estimator `VAE`: a variational autoencoder with the interface of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

import zoo
from zoo import DataDependent, Dataset, Split, Trainer, UsageError, evaluating, resolve_device, seeded
from zoo_score.methods import Settings, negative_log_likelihood
from zoo_sklearn.scaling import Scaling

Array = NDArray[Any]

DEFAULT = zoo.ResolvedRecipe(
    "vector-vae",
    {
        "latent_dim": 8,
        "encoder": {"use": "mlp", "hidden": [128, 128]},
        "decoder": {"use": "mlp", "hidden": [128, 128], "likelihood": {"use": "gaussian", "scale": "shared"}},
        "prior": "standard-normal",
        "loss": "elbo",
        "data": "memory",
        "train": {"epochs": 100, "batch_size": 128, "optimizer": {"use": "Adam", "lr": 0.001}},
    },
)
"""The model for rows of real numbers: multilayer perceptrons and a Gaussian with one learned scale."""

BATCH = 500
LATENTS = 50_000
"""Draws that `VAE.score_samples` keeps in memory at once."""


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A variational autoencoder that is fitted to the rows of an array.

    Missing values (NaN) are accepted: the likelihood is that of the observed entries, and the encoder receives the mean
    of the column instead. Nothing is printed and no file is written.

    Args:
        model: a recipe by name, such as ``iwae``, a YAML file with one model, or a `zoo.Recipe`. By default,
            multilayer perceptrons with a Gaussian likelihood that has one learned scale.
        latent_dim: number of latent dimensions; None for that of the recipe.
        epochs, batch_size, lr: how long and how to train; None for the values of the recipe.
        overrides: further changes of the recipe, such as ``["encoder.hidden=[64]", "loss.beta=2"]``.
        standardize: standardize each column by its mean and standard deviation before training, and undo it in
            everything that is returned. Set it to False for a likelihood that needs its own range, such as a Bernoulli.
        data_shape: shape of one example, such as (1, 28, 28), for models of images; by default (n_features,).
        importance_samples: samples of the estimate of log p(x) in `score` and `score_samples`.
        device: device of the training, as in `zoo.train`. The fitted model is on the CPU.
        random_state: seed of the training and of every draw; an int for reproducible results.
        verbose: whether to show the progress of the training.

    Attributes:
        model_: the trained `zoo.VAE`, in float64.
        recipe_: the recipe that it was trained with.
        loss_curve_: mean training loss of each epoch.
        n_features_in_, feature_names_in_: columns of X in `fit`.

    >>> import numpy as np
    >>> from zoo.sklearn import VAE
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> vae = VAE(latent_dim=2, epochs=2, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.sample(3).shape, vae.score_samples(X[:4]).shape
    ((200, 2), (3, 5), (4,))
    """

    def __init__(
        self,
        model: str | zoo.Recipe | None = None,
        *,
        latent_dim: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
        standardize: bool = True,
        data_shape: tuple[int, ...] | None = None,
        importance_samples: int = 100,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.latent_dim = latent_dim
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.overrides = overrides
        self.standardize = standardize
        self.data_shape = data_shape
        self.importance_samples = importance_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Train the model.

        Args:
            X: (n_samples, n_features); NaN for missing values.
            y: ignored.

        Raises:
            UsageError: the recipe, a change of it or the shape of an example is not valid.
            TrainingError: the training failed.
        """
        rows = self._validated(X, reset=True, ensure_min_samples=2)
        scaling = Scaling.of(rows) if self.standardize else Scaling.identity(rows.shape[1])
        shape = (rows.shape[1],) if self.data_shape is None else tuple(self.data_shape)
        if np.prod(shape) != rows.shape[1]:
            raise UsageError(f"data_shape={shape} does not have the {rows.shape[1]} entries of a row of X.")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        recipe = self._recipe(seed)
        x, mask = _tensors(scaling.scale_rows(rows), shape)
        split = Split(x.float(), mask=None if mask is None else mask)
        device = resolve_device(self.device)
        with seeded(seed, device):
            vae, loss = zoo.build(recipe, shape, 0, len(rows))
            for module in vae.modules():
                if isinstance(module, DataDependent):
                    module.initialize(split.mean())
        dataset = Dataset(split, split.part(0, 1))
        trainer = Trainer(
            vae, loss, dataset, recipe.train, binarize=recipe.binarize, progress=self.verbose, device=device
        )
        try:
            history = trainer.fit()
        except zoo.Interrupted as interrupted:
            raise KeyboardInterrupt(str(interrupted)) from interrupted
        self.recipe_ = recipe
        self.model_ = trainer.model.cpu().double().requires_grad_(False).eval()
        self.loss_curve_ = [epoch.train["loss"] for epoch in history]
        self._scaling, self._shape = scaling, shape
        self._n_features_out = int(np.prod(self.model_.latent_shape))
        return self

    def transform(self, X: ArrayLike) -> Array:
        """The means of q(z | x), (n_samples, latent_dim)."""
        x, _ = self._encoder_input(X)
        with torch.no_grad(), evaluating(self.model_), seeded(self._seed()):
            means = [self.model_.posterior_mean(part).flatten(1) for part in torch.split(x, BATCH)]
        return torch.cat(means).numpy()

    def inverse_transform(self, Z: ArrayLike) -> Array:
        """The means of p(x | z), (n_samples, n_features).

        Args:
            Z: latents (n_samples, latent_dim).
        """
        check_is_fitted(self)
        latents = check_array(Z, dtype=np.float64)
        if latents.shape[1] != self._n_features_out:
            raise ValueError(f"Z has {latents.shape[1]} columns, but the latent has {self._n_features_out} dimensions.")
        z = torch.tensor(latents).reshape(-1, *self.model_.latent_shape)
        with torch.no_grad(), evaluating(self.model_):
            means = [self.model_.decode(part).mean.flatten(1) for part in torch.split(z, BATCH)]
        return self._scaling.restore_rows(torch.cat(means).double().numpy())

    def score_samples(self, X: ArrayLike) -> Array:
        """An importance-weighted estimate of log p(x) of each row, (n_samples,), in nats (arXiv 1509.00519, eq. 8).

        It is the log-density of the observed entries in the units of X, a lower bound in expectation that increases
        with `importance_samples`.

        Raises:
            NotApplicable: the posterior has no density, as that of a deterministic or vector-quantized autoencoder.
        """
        x, mask = self._encoder_input(X)
        settings = Settings(self.importance_samples, seed=self._seed())
        parts = torch.split(torch.arange(len(x)), max(1, min(BATCH, LATENTS // self.importance_samples)))
        with torch.no_grad(), evaluating(self.model_):
            scores = [
                -negative_log_likelihood(
                    self.model_, zoo.Batch(x[part], None, None if mask is None else mask[part]), settings
                )
                for part in parts
            ]
        observed = np.ones((len(x), self.n_features_in_)) if mask is None else mask.flatten(1).numpy()
        log_density: Array = torch.cat(scores).numpy() + observed @ self._scaling.log_density_factor
        return log_density

    def score(self, X: ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`: the mean log-likelihood of a row, in nats. Higher is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> Array:
        """Draw z from the prior and rows from p(x | z), (n_samples, n_features).

        Args:
            n_samples: number of rows.
            random_state: seed; by default that of the estimator.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be a positive integer, not {n_samples!r}.")
        with torch.no_grad(), evaluating(self.model_), seeded(self._seed(random_state)):
            rows = self.model_.sample(int(n_samples)).flatten(1)
        return self._scaling.restore_rows(rows.double().numpy())

    def _seed(self, random_state: int | np.random.RandomState | None = None) -> int:
        source = self.random_state if random_state is None else random_state
        return int(check_random_state(source).randint(2**31 - 1))

    def _recipe(self, seed: int) -> zoo.Recipe:
        """The recipe with the changes of the parameters."""
        train: dict[str, Any] = {"epochs": self.epochs, "batch_size": self.batch_size}
        train = {name: value for name, value in train.items() if value is not None}
        if self.lr is not None:
            train["optimizer"] = {"lr": self.lr}
        changes: dict[str, Any] = {} if self.latent_dim is None else {"latent_dim": self.latent_dim}
        model = DEFAULT if self.model is None else self.model
        return zoo.recipe(model, self.overrides, train={**train, "seed": seed}, **changes)

    def _validated(self, X: ArrayLike, reset: bool, **options: Any) -> Array:
        rows: Array = validate_data(
            self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset, copy=True, **options
        )
        return rows

    def _encoder_input(self, X: ArrayLike) -> tuple[Tensor, Tensor | None]:
        check_is_fitted(self)
        return _tensors(self._scaling.scale_rows(self._validated(X, reset=False)), self._shape)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _tensors(rows: Array, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Examples (N, *shape), float64 with 0 for missing values, and the mask of observed entries, if any are missing."""
    x = torch.tensor(rows).reshape(-1, *shape)
    mask = ~torch.isnan(x)
    return (x, None) if bool(mask.all()) else (x.nan_to_num(0.0), mask)
