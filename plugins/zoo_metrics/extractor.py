"""Features of images, of samples and of reconstructions, by an extractor from a file."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import interpolate

import zoo
from zoo import Batch, DataError, EvaluationContext, Metric, NotApplicable

Source = Literal["samples", "reconstructions"]


class FeatureDistance(Metric):
    """Base class of distances between features of the images and those of samples or reconstructions.

    Args:
        extractor: a TorchScript file (``.pt``, ``.ts``), an exported program (``.pt2``), or a run of the zoo, whose
            posterior means are the features. It receives images (N, C, H, W) in [0, 1]. Loading a file can execute
            code: use files from sources you trust only.
        size: resize images to this height and width first.
        rgb: repeat grey images to three channels first.
        inception: the extractor has the Inception weights (2015-12-05).
        of: what to compare with the images: ``samples``, ``reconstructions``, or both.
    """

    by_default = False

    def __init__(
        self,
        extractor: str,
        size: PositiveInt | None = None,
        rgb: bool = False,
        inception: bool = False,
        of: Sequence[Source] = ("samples",),
    ) -> None:
        self.path = Path(extractor)
        self.size = size
        self.rgb = rgb
        self.inception = inception
        self.of = tuple(dict.fromkeys(of))

    def name(self, source: Source, distance: str, extractor: str) -> str:
        """The name of a measurement, such as ``reconstruction-frechet_lenet``."""
        prefix = "" if source == "samples" else "reconstruction-"
        return f"{prefix}{distance}" if self.inception else f"{prefix}{distance}_{extractor}"

    def features(self, context: EvaluationContext) -> tuple[str, Mapping[str, object], Tensor, dict[Source, Tensor]]:
        """The name of the extractor, the protocol, and float64 features (N, D) of the images and of each source.

        Raises:
            DataError: the extractor cannot be loaded.
            NotApplicable: there are fewer than two images, or the data are not complete images.
        """
        if len(context) < 2:
            raise NotApplicable("the distance needs at least two images")
        if len(context.dataset.shape) != 3 or context.dataset.train.mask is not None:
            raise NotApplicable("the extractor needs images (C, H, W) without missing entries")
        extractor, digest, extract = load_extractor(self.path, context.device)

        def extracted(images: Callable[[Batch], Tensor]) -> Iterator[Tensor]:
            for batch in context.batches():
                yield extract(self._preprocess(images(batch))).flatten(1).cpu().double()

        sources: dict[Source, Callable[[Batch], Tensor]] = {
            "samples": lambda batch: samples(context, batch),
            "reconstructions": lambda batch: context.vae.reconstruct(batch.x, batch.condition),
        }
        features = torch.cat(list(extracted(lambda batch: batch.x)))
        protocol = {"samples": len(context), "features": features.shape[1], "extractor sha256": digest}
        return extractor, protocol, features, {of: torch.cat(list(extracted(sources[of]))) for of in self.of}

    def _preprocess(self, images: Tensor) -> Tensor:
        if self.rgb and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.size is not None:
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images


def samples(context: EvaluationContext, batch: Batch) -> Tensor:
    """The means of p(x | z) at samples of the prior, one for each image of a batch."""
    prior = context.vae.prior(context.vae.encoder, batch.condition)
    z = prior.sample() if prior.batch_shape else prior.sample(torch.Size([len(batch.x)]))
    return context.vae.decode(z, batch.condition).mean


def load_extractor(path: Path, device: torch.device) -> tuple[str, str, Callable[[Tensor], Tensor]]:
    """Return the extractor's name, the SHA-256 of its weights, and the function from images to features.

    Raises:
        DataError: the file does not exist or is not a TorchScript module or exported program.
    """
    if path.is_dir() or str(path) in zoo.list_weights():
        run = zoo.Run.open(str(path))
        vae = run.load().to(device)
        return run.recipe.name, _sha256(run.path / "model.safetensors"), lambda images: vae.encode(images).mean
    if not path.is_file():
        raise DataError(f"The feature extractor {path} does not exist. Pass a .pt, .ts or .pt2 file, or a run.")
    try:
        if path.suffix == ".pt2":
            module: Callable[[Tensor], Tensor] = torch.export.load(path).module().to(device)
        else:
            with warnings.catch_warnings():
                # The standard Inception weights are a TorchScript file; torch warns that the format is deprecated.
                warnings.filterwarnings("ignore", ".*torch.jit.load")
                module = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise DataError(
            f"{path} is not a TorchScript module or exported program: {str(error).splitlines()[0]}"
        ) from error
    return path.stem, _sha256(path), module


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
