"""Metrics of a trained model: their interface, their context and their results."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from zoo.data.dataset import Dataset, Split
from zoo.data.loader import Loader
from zoo.errors import NotApplicable, UsageError
from zoo.model.batch import Batch
from zoo.model.context import derive_seed, evaluating, reseed, seeded
from zoo.model.devices import float64
from zoo.model.likelihood import in_support
from zoo.model.vae import VAE

if TYPE_CHECKING:
    from zoo.recipes.schema import Recipe
    from zoo.training.distributed import Group

T = TypeVar("T")

# Random streams of an evaluation, distinct from those of the training.
BITS, DRAWS, CODES = 11, 12, 13
BATCH = 500
SPLITS = ("test", "train", "validation")


@dataclass(frozen=True)
class Measurement:
    """A measured value and its protocol.

    Attributes:
        name: name of the quantity, such as ``rate`` or ``frechet_lenet``.
        value: its value.
        unit: unit, such as ``nats/image`` or ``bits/dim``; empty for ratios and counts.
        protocol: settings that the value depends on, such as ``{"samples": 5000}``. Split, number of images,
            binarization and seed are added to every protocol.
        error: standard error, if the value is a mean over images.
        note: a caveat, such as that the value is not a likelihood.
    """

    name: str
    value: float
    unit: str = ""
    protocol: Mapping[str, object] = field(default_factory=dict)
    error: float | None = None
    note: str = ""

    @classmethod
    def mean(
        cls, name: str, values: Tensor, unit: str = "", protocol: Mapping[str, object] | None = None, note: str = ""
    ) -> Measurement:
        """The mean of one value per image (N,), in float64, with its standard error."""
        values = float64(values)
        error = (values.std() / len(values) ** 0.5).item() if len(values) > 1 else None
        return cls(name, values.mean().item(), unit, protocol or {}, error, note)

    @property
    def shown(self) -> str:
        """The value, rounded to two digits of its standard error, or to five significant digits.

        >>> Measurement("rate", 24.5823, error=0.0312).shown, Measurement("active-units", 13).shown
        ('24.582 ± 0.031', '13')
        """
        if not self.error:
            return f"{self.value:.5g}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"

    @property
    def how(self) -> str:
        """The protocol in one line, with digests truncated."""
        return ", ".join(
            f"{name} {value[:12] if name.endswith('sha256') and isinstance(value, str) else value}"
            for name, value in self.protocol.items()
        )


class Metric(ABC):
    """A measure of a trained model. Its settings are the arguments of its constructor.

    .. code-block:: python

        class Sparsity(zoo.Metric):
            def __init__(self, threshold: PositiveFloat = 0.1) -> None:
                self.threshold = threshold

            def __call__(self, context):
                share = (context.posterior_mean.abs() < self.threshold).double().mean().item()
                return [zoo.Measurement("sparsity", share, protocol={"threshold": self.threshold})]

    Attributes:
        by_default: measure it if no metric is selected by name. False for metrics that take minutes.
        importance_sampled: measure it if a number of importance samples is given, its parameter ``samples``.
    """

    by_default: ClassVar[bool] = True
    importance_sampled: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure. Called without gradients, in evaluation mode, with torch's global generator seeded.

        Raises:
            NotApplicable: the metric is undefined for the model or the data; the message gives the reason.
        """


class EvaluationContext:
    """The input of a metric: a trained model and the images to measure it on.

    The images do not depend on the batch size: dynamic binarization is drawn once, with one seed per image.

    Args:
        vae: trained model.
        recipe: recipe of its training; `binarize` applies to the images.
        dataset: data set.
        split: split to measure: ``test``, ``train`` or ``validation``.
        limit: use the first images of the split only.
        seed: seed of every draw.
        device: device of the model.
        group: processes that share the work.
        progress: called with (done, total).
        prior: name of the model's prior, if it is not that of the recipe.
    """

    def __init__(
        self,
        vae: VAE,
        recipe: Recipe,
        dataset: Dataset,
        split: str = "test",
        limit: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        *,
        group: Group | None = None,
        progress: Callable[[int, int], None] | None = None,
        prior: str | None = None,
    ) -> None:
        if split not in dataset.splits:
            raise UsageError(f"The data have no split {split!r}. Available: {', '.join(dataset.splits)}.")
        self.device = torch.device(device)
        self.vae = vae.to(self.device).eval()
        self.recipe = recipe
        self.dataset = dataset
        self.split = split
        self.seed = seed
        self._limit = limit
        self._group = group
        self._progress = progress
        self._prior = prior

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images.x)

    @cached_property
    def images(self) -> Loader:
        """The images to measure; ``images.in_order()`` iterates over batches."""
        return self._fixed(self.split, self._limit)

    @cached_property
    def train(self) -> Loader:
        """The whole training split, for metrics that fit a model."""
        return self.images if self.split == "train" and self._limit is None else self._fixed("train", None)

    @cached_property
    def posterior_mean(self) -> Tensor:
        """The means of q(z | x) (N, *latent_shape), on the CPU; draws if it has no mean, see `representation`."""
        return self.encode(self.images)

    @cached_property
    def train_posterior_mean(self) -> Tensor:
        """The `posterior_mean` of the whole training split."""
        return self.posterior_mean if self.train is self.images else self.encode(self.train)

    @cached_property
    def representation(self) -> str:
        """``posterior means`` or ``posterior draws``."""
        batch = self.images[torch.arange(1)]
        try:
            _ = self.vae.encode(batch.x, batch.condition, batch.mask).mean
        except NotImplementedError:
            return "posterior draws"
        return "posterior means"

    @property
    def labels(self) -> Tensor:
        """The labels of the images, int64 (N,), on the CPU; raises `NotApplicable` if there are none."""
        return _labels(self.images)

    @property
    def train_labels(self) -> Tensor:
        """The labels of the whole training split."""
        return _labels(self.train)

    @property
    def factors(self) -> Tensor:
        """The generating factors of the images, int64 (N, F); raises `NotApplicable` if they are unknown."""
        return self._factors(self.split)[: self._limit]

    @property
    def train_factors(self) -> Tensor:
        """The `factors` of the whole training split."""
        return self._factors("train")

    @property
    def factor_names(self) -> tuple[str, ...]:
        """The names of the columns of `factors`."""
        return self.dataset.factor_names

    @cached_property
    def no_likelihood(self) -> str:
        """The reason why log p(x | z) is not a log-likelihood of these images; empty if it is."""
        p = self._likelihood
        if not getattr(p, "normalized", True):
            return "no likelihood: p(x | z) is not normalized"
        if not all(in_support(p, batch.x, batch.mask) for batch in self.images.in_order()):
            return "no likelihood: the pixels are outside the support of p(x | z)"
        return ""

    @cached_property
    def discrete(self) -> bool:
        """Whether p(x | z) is a probability mass rather than a density."""
        try:
            support = self._likelihood.support
        except NotImplementedError:
            return False
        return bool(getattr(support, "is_discrete", False))

    @property
    def protocol(self) -> dict[str, object]:
        """The settings that every measurement depends on."""
        prior = {} if self._prior is None else {"prior": f"{self._prior}, fitted after training"}
        count, binarize = len(self), self.recipe.binarize
        return {"split": self.split, "images": count, "binarize": binarize, "seed": self.seed, **prior}

    def batches(self) -> Iterator[Batch]:
        """Iterate over the images in order and report progress."""
        yield from self.track(self.images.in_order(), len(self.images))

    def track(self, items: Iterable[T], total: int) -> Iterator[T]:
        """Iterate over items and report progress."""
        for done, item in enumerate(items):
            if self._progress is not None:
                self._progress(done, total)
            yield item

    def encode(self, images: Loader) -> Tensor:
        """The `posterior_mean` of other data."""
        means = []
        with torch.no_grad(), evaluating(self.vae), seeded(derive_seed(self.seed, CODES), self.device):
            for batch in self.track(images.in_order(), len(images)):
                q = self.vae.encode(batch.x, batch.condition, batch.mask)
                means.append((q.mean if self.representation == "posterior means" else q.sample()).cpu())
        return torch.cat(means)

    def each(self, measure: Callable[[Batch, int], Tensor]) -> Tensor:
        """Compute one value per image, float64 (N,), image by image, split across the processes.

        Args:
            measure: maps a batch of one image and a seed, which depends on the image only, to a tensor with one
                element.
        """
        rank, size = (0, 1) if self._group is None else (self._group.rank, self._group.size)
        values = torch.zeros(len(self), dtype=torch.float64)
        indices = range(rank, len(self), size)
        for index in self.track(indices, len(indices)):
            values[index] = measure(self.images[torch.tensor([index])], derive_seed(self.seed, DRAWS, index)).squeeze()
        if self._group is not None:
            values = values.to(self.device)
            self._group.all_reduce_sum([values])
        return values.cpu()

    @cached_property
    def _likelihood(self) -> Distribution:
        with torch.no_grad(), evaluating(self.vae), seeded(self.seed, self.device):
            return self.vae.trace(self.images[torch.arange(1)]).p

    def _factors(self, split: str) -> Tensor:
        images = self.dataset.splits[split]
        if images.factors is None:
            raise NotApplicable("the generating factors of the images are unknown")
        return images.factors

    def _fixed(self, split: str, limit: int | None) -> Loader:
        images = self.dataset.splits[split]
        images = images if limit is None else images.part(0, limit)
        binarize = self.recipe.binarize
        if binarize == "dynamic":
            bits = _binarized(images, derive_seed(self.seed, BITS, SPLITS.index(split)))
            images, binarize = replace(images, x=bits, digest=None), "threshold"
        return Loader.for_evaluation(images, BATCH, binarize, self.device)


def _labels(batches: Loader) -> Tensor:
    if batches.labels is None:
        raise NotApplicable("the data have no labels")
    return batches.labels.cpu()


def _binarized(split: Split, seed: int) -> Tensor:
    """Draw each entry as 0 or 255 (uint8) on the CPU, so that the result does not depend on the device."""
    drawn = torch.empty(split.x.shape, dtype=torch.uint8)
    loader = Loader(split, 1, binarize="none")
    with seeded(seed):
        for index, batch in enumerate(loader.in_order()):
            reseed(derive_seed(seed, index), drawn.device)
            drawn[index] = torch.bernoulli(batch.x[0]) * 255
    return drawn
