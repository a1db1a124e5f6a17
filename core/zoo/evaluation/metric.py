"""What a trained model is measured with: metrics, what they are given, and the numbers they return."""

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
from zoo.model.context import derive_seed, evaluating, reseed, seeded
from zoo.model.devices import float64
from zoo.model.vae import VAE, Batch, in_support

if TYPE_CHECKING:
    from zoo.recipes.schema import Recipe
    from zoo.training.distributed import Group

T = TypeVar("T")

# The streams of random numbers of an evaluation, beside those of the training.
BITS, DRAWS, CODES = 11, 12, 13
BATCH = 500
SPLITS = ("test", "train", "validation")


@dataclass(frozen=True)
class Measurement:
    """One number, and how it was come by.

    Attributes:
        name: what was measured, such as ``rate`` or ``frechet_lenet``.
        value: the number.
        unit: such as ``nats/image`` or ``bits/dim``; empty for a bare ratio or count.
        protocol: what the number depends on, such as ``{"samples": 5000}``. Split, count, binarisation and seed are in
            every protocol and need not be given.
        error: the standard error of a mean over images, where the number is one.
        note: what a reader must not overlook, such as that the number is no likelihood.
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
        """The mean of one value for each image (N,), in float64, with its standard error."""
        values = float64(values)
        error = (values.std() / len(values) ** 0.5).item() if len(values) > 1 else None
        return cls(name, values.mean().item(), unit, protocol or {}, error, note)

    @property
    def shown(self) -> str:
        """The value with as many digits as it is worth: two of its standard error, or five in all.

        >>> Measurement("rate", 24.5823, error=0.0312).shown, Measurement("active-units", 13).shown
        ('24.582 ± 0.031', '13')
        """
        if not self.error:
            return f"{self.value:.5g}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"

    @property
    def how(self) -> str:
        """What else the number depends on. A digest is cut short; `protocol` has the whole."""
        return ", ".join(
            f"{name} {value[:12] if name.endswith('sha256') and isinstance(value, str) else value}"
            for name, value in self.protocol.items()
        )


class Metric(ABC):
    """A measure of a trained model. Its constructor's arguments are its settings, checked like any component's.

    .. code-block:: python

        class Sparsity(zoo.Metric):
            def __init__(self, threshold: PositiveFloat = 0.1) -> None:
                self.threshold = threshold

            def __call__(self, subject):
                share = (subject.posterior_mean.abs() < self.threshold).double().mean().item()
                return [zoo.Measurement("sparsity", share, protocol={"threshold": self.threshold})]

    Attributes:
        by_default: whether it is measured when none is asked for by name. One that takes minutes is not.
        importance_sampled: whether it is measured when a number of importance samples is asked for, its parameter
            ``samples``.
    """

    by_default: ClassVar[bool] = True
    importance_sampled: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure. Called without gradients, in evaluation mode, with torch's global generator seeded.

        Raises:
            NotApplicable: the model or the data have no such number; the message says why.
        """


class EvaluationContext:
    """What a metric looks at: a trained model, and the images that it is measured on.

    The images are the same each time they are looked at, whatever the size of the batches: dynamic binarisation is
    drawn once, for each image from a seed of its own.

    Args:
        vae: the trained model.
        recipe: what it was trained by; its `binarize` says what becomes of the pixels.
        dataset: training and test images.
        split: which of them are measured: ``test``, ``train`` or ``validation``.
        limit: take only so many images of the split, the first ones.
        seed: of every draw.
        device: where the model works.
        group: the processes among which a long metric is divided.
        progress: called with (done, of) while a metric goes through the images.
        prior: the name of the model's prior, where it is another than that of the recipe.
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
            raise UsageError(f"The data have no split {split!r}. There are: {', '.join(dataset.splits)}.")
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
        """The number of images that are measured."""
        return len(self.images.x)

    @cached_property
    def images(self) -> Loader:
        """The images that are measured: `Loader`, whose ``in_order()`` gives `Batch` after `Batch`."""
        return self._fixed(self.split, self._limit)

    @cached_property
    def train(self) -> Loader:
        """All images of the training split, for metrics that fit something."""
        return self.images if self.split == "train" and self._limit is None else self._fixed("train", None)

    @cached_property
    def posterior_mean(self) -> Tensor:
        """The means of q(z | x), a draw where it has none: (N, *latent_shape), on the CPU; see `representation`."""
        return self.encoded(self.images)

    @cached_property
    def train_posterior_mean(self) -> Tensor:
        """The same for the whole training split."""
        return self.posterior_mean if self.train is self.images else self.encoded(self.train)

    @cached_property
    def representation(self) -> str:
        """``posterior means`` or ``posterior draws``."""
        batch = self.images[torch.arange(1)]
        try:
            _ = self.vae.encode(batch.x, batch.condition).mean
        except NotImplementedError:
            return "posterior draws"
        return "posterior means"

    @property
    def labels(self) -> Tensor:
        """The labels of the images, int64 (N,), on the CPU.

        Raises:
            NotApplicable: there are none.
        """
        return _labels(self.images)

    @property
    def train_labels(self) -> Tensor:
        """The labels of the training split."""
        return _labels(self.train)

    @property
    def factors(self) -> Tensor:
        """What the images were made from, int64 (N, F); see `Split.factors`.

        Raises:
            NotApplicable: that is not known.
        """
        return self._factors(self.split)[: self._limit]

    @property
    def train_factors(self) -> Tensor:
        """The same for the whole training split."""
        return self._factors("train")

    @property
    def factor_names(self) -> tuple[str, ...]:
        """What the columns of `factors` are."""
        return self.dataset.factor_names

    @cached_property
    def no_likelihood(self) -> str:
        """Why log p(x | z) is no log-likelihood of these images; empty where it is one."""
        p = self._likelihood
        if not getattr(p, "normalized", True):
            return "no likelihood: p(x | z) is not normalised"
        if not all(in_support(p, batch.x, batch.mask) for batch in self.images.in_order()):
            return "no likelihood: the pixels lie outside the support of p(x | z)"
        return ""

    @cached_property
    def discrete(self) -> bool:
        """Whether p(x | z) is the probability of values that can be counted, and no density."""
        try:
            support = self._likelihood.support
        except NotImplementedError:
            return False
        return bool(getattr(support, "is_discrete", False))

    @property
    def protocol(self) -> dict[str, object]:
        """What every number depends on."""
        said = {"split": self.split, "images": len(self), "binarize": self.recipe.binarize, "seed": self.seed}
        return said if self._prior is None else {**said, "prior": f"{self._prior}, fitted after training"}

    def batches(self) -> Iterator[Batch]:
        """The images in order, with progress reported."""
        yield from self.track(self.images.in_order(), len(self.images))

    def track(self, items: Iterable[T], of: int) -> Iterator[T]:
        """The same items, with progress reported."""
        for done, item in enumerate(items):
            if self._progress is not None:
                self._progress(done, of)
            yield item

    def encoded(self, images: Loader) -> Tensor:
        """The posterior means of other data; see `posterior_mean`."""
        means = []
        with torch.no_grad(), evaluating(self.vae), seeded(derive_seed(self.seed, CODES), self.device):
            for batch in self.track(images.in_order(), len(images)):
                q = self.vae.encode(batch.x, batch.condition)
                means.append((q.mean if self.representation == "posterior means" else q.sample()).cpu())
        return torch.cat(means)

    def each(self, measure: Callable[[Batch, int], Tensor]) -> Tensor:
        """A number for each image, float64 (N,), from one image after the other, shared out among the processes.

        Args:
            measure: from a batch of one image and its seed, which is the same wherever and whenever it is measured, to
                a tensor of one element.
        """
        rank, size = (0, 1) if self._group is None else (self._group.rank, self._group.size)
        values = torch.zeros(len(self), dtype=torch.float64)
        mine = range(rank, len(self), size)
        for index in self.track(mine, len(mine)):
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
            raise NotApplicable("it is not known from which factors the images were made")
        return images.factors

    def _fixed(self, split: str, limit: int | None) -> Loader:
        measured = self.dataset.splits[split]
        measured = measured if limit is None else measured.part(0, limit)
        binarize = self.recipe.binarize
        if binarize == "dynamic":
            bits = _binarized(measured, derive_seed(self.seed, BITS, SPLITS.index(split)))
            measured, binarize = replace(measured, x=bits, digest=None), "threshold"
        return Loader(measured, BATCH, binarize, self.device)


def _labels(batches: Loader) -> Tensor:
    if batches.labels is None:
        raise NotApplicable("the data have no labels")
    return batches.labels.cpu()


def _binarized(split: Split, seed: int) -> Tensor:
    """A bit for each entry, as 0 or 255 in uint8, drawn on the CPU so that it is the same on every device."""
    drawn = torch.empty(split.x.shape, dtype=torch.uint8)
    loader = Loader(split, 1, binarize="none")
    with seeded(seed):
        for index, batch in enumerate(loader.in_order()):
            reseed(derive_seed(seed, index), drawn.device)
            drawn[index] = torch.bernoulli(batch.x[0]) * 255
    return drawn
