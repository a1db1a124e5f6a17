"""The estimator `VAE`: a variational autoencoder with the interface of scikit-learn."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

import zoo
from zoo import (
    Batch,
    DataDependent,
    Dataset,
    Split,
    Trainer,
    components_of,
    evaluating,
    read_signature,
    resolve_device,
    seeded,
)
from zoo_score.methods import Settings, negative_log_likelihood
from zoo_sklearn.rows import NumberRows, Rows, TableRows, has_numbers_alone, is_frame
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
    """A variational autoencoder that is fitted to the rows of an array or of a data frame.

    Missing values (NaN) are accepted: the likelihood is that of the observed entries, and an encoder that takes no mask
    receives the mean of the column instead. Nothing is printed and no file is written.

    A data frame with text, categories or dates is modelled by ``table-vae``, whose columns have different kinds; every
    model that takes columns can be given as `model`. Rows are then returned as a data frame in the original columns.

    Args:
        model: a recipe by name, such as ``iwae``, a YAML file with one model, or a `zoo.Recipe`. By default,
            ``table-vae`` for data frames with columns that are not numbers, else multilayer perceptrons with a Gaussian
            likelihood that has one learned scale.
        latent_dim: number of latent dimensions; None for that of the recipe.
        epochs, batch_size, lr: how long and how to train; None for the values of the recipe.
        overrides: further changes of the recipe, such as ``["encoder.hidden=[64]", "loss.beta=2"]``.
        columns: kinds of columns of tables by name, instead of the inferred ones, such as ``{"age": "count"}``.
        standardize: standardize each column by its mean and standard deviation before training, and undo it in
            everything that is returned. Set it to False for a likelihood that needs its own range, such as a Bernoulli.
            It has no effect on models of tables, which scale each column by its kind.
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
        columns: Mapping[str, Any] | None = None,
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
        self.columns = columns
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
        seed = self._seed()
        mixed = is_frame(X) and not has_numbers_alone(X)
        recipe = self._recipe(seed, mixed)
        self._tabular = _takes_columns(recipe)
        if mixed and not self._tabular:
            raise ValueError(
                f"X has columns without numbers, which {recipe.name} does not take; try model='table-vae'."
            )
        values = self._validated(X, reset=True)
        rows = self._fitted_rows(values, as_array=not is_frame(X))
        x, mask = rows.encode(values)
        split = Split(x.float(), mask=mask)
        device = resolve_device(self.device)
        with seeded(seed, device):
            vae, loss = zoo.build(recipe, rows.shape, 0, len(x), rows.columns)
            for module in vae.modules():
                if isinstance(module, DataDependent):
                    module.initialize(split.mean())
        dataset = Dataset(split, split.part(0, 1), columns=rows.columns)
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
        self._rows = rows
        self._n_features_out = int(np.prod(self.model_.latent_shape))
        return self

    def transform(self, X: ArrayLike) -> Array:
        """The means of q(z | x), (n_samples, latent_dim)."""
        batch = self._batch(X)
        with torch.no_grad(), evaluating(self.model_), seeded(self._seed()):
            means = [self.model_.posterior_mean(*part).flatten(1) for part in _parts(batch, BATCH)]
        return torch.cat(means).numpy()

    def inverse_transform(self, Z: ArrayLike) -> Any:
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
            means = [self.model_.decode(part).mean for part in torch.split(z, BATCH)]
        return self._rows.decode(torch.cat(means))

    def score_samples(self, X: ArrayLike) -> Array:
        """An importance-weighted estimate of log p(x) of each row, (n_samples,), in nats (arXiv 1509.00519, eq. 8).

        It is the log-density of the observed entries in the units of X, a lower bound in expectation that increases
        with `importance_samples`.

        Raises:
            NotApplicable: the posterior has no density, as that of a deterministic or vector-quantized autoencoder.
        """
        batch = self._batch(X)
        settings = Settings(self.importance_samples, seed=self._seed())
        with torch.no_grad(), evaluating(self.model_):
            scores = [
                -negative_log_likelihood(self.model_, part, settings)
                for part in _parts(batch, max(1, min(BATCH, LATENTS // self.importance_samples)))
            ]
        observed = torch.ones_like(batch.x) if batch.mask is None else batch.mask
        log_density: Array = torch.cat(scores).numpy() + observed.flatten(1).numpy() @ self._rows.log_density_factor()
        return log_density

    def score(self, X: ArrayLike, y: object = None) -> float:
        """The mean of `score_samples`: the mean log-likelihood of a row, in nats. Higher is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> Any:
        """Draw z from the prior and rows from p(x | z), (n_samples, n_features).

        Args:
            n_samples: number of rows.
            random_state: seed; by default that of the estimator.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"n_samples must be a positive integer, not {n_samples!r}.")
        with torch.no_grad(), evaluating(self.model_), seeded(self._seed(random_state)):
            x = self.model_.sample(int(n_samples))
        return self._rows.decode(x)

    def _seed(self, random_state: int | np.random.RandomState | None = None) -> int:
        source = self.random_state if random_state is None else random_state
        return int(check_random_state(source).randint(2**31 - 1))

    def _recipe(self, seed: int, mixed: bool) -> zoo.Recipe:
        """The recipe with the changes of the parameters."""
        train: dict[str, Any] = {"epochs": self.epochs, "batch_size": self.batch_size}
        train = {name: value for name, value in train.items() if value is not None}
        if self.lr is not None:
            train["optimizer"] = {"lr": self.lr}
        changes: dict[str, Any] = {} if self.latent_dim is None else {"latent_dim": self.latent_dim}
        model = self.model if self.model is not None else "table-vae" if mixed else DEFAULT
        return zoo.recipe(model, self.overrides, train={**train, "seed": seed}, **changes)

    def _validated(self, X: Any, reset: bool) -> Any:
        """Check X: a data frame for models of tables, else an array of float64."""
        if self._tabular and is_frame(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        rows: Array = validate_data(
            self,
            X,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
            reset=reset,
            copy=True,
        )
        if not self._tabular:
            return rows
        from zoo_tables.reading import pandas

        return pandas().DataFrame(rows, columns=getattr(self, "feature_names_in_", map(str, range(rows.shape[1]))))

    def _fitted_rows(self, values: Any, as_array: bool) -> Rows:
        if self._tabular:
            return TableRows(values, self.columns or {}, as_array)
        width = values.shape[1]
        scaling = Scaling.of(values) if self.standardize else Scaling.identity(width)
        return NumberRows(scaling, (width,) if self.data_shape is None else tuple(self.data_shape))

    def _batch(self, X: Any) -> Batch:
        check_is_fitted(self)
        x, mask = self._rows.encode(self._validated(X, reset=False))
        return Batch(x, None, mask)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _takes_columns(recipe: zoo.Recipe) -> bool:
    """Whether a component of the model is built from the columns of a table."""
    return any("columns" in read_signature(kind, spec.use).injected for _, kind, spec in components_of(recipe))


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, len(batch.x), size):
        yield batch.map(operator.itemgetter(slice(start, start + size)))
