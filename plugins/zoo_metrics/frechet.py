"""The Frechet distance between features of samples and of images."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import interpolate

import zoo
from zoo import DataError, EvaluationContext, Measurement, Metric, NotApplicable


class FrechetDistance(Metric):
    """The Frechet distance between Gaussians fitted to features of images and of samples (arXiv 1706.08500, eq. 6).

    d = |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))

    There are as many samples as images; a sample is the mean of p(x | z) at a sample of the prior. The value depends on
    the extractor, after which it is named, and on the number of images. It is the FID only with the Inception weights.

    Args:
        extractor: a TorchScript file (``.pt``, ``.ts``), an exported program (``.pt2``), or a run of the zoo, whose
            posterior means are the features. It receives images (N, C, H, W) in [0, 1]. Loading a file can execute
            code: use files from sources you trust only.
        size: resize images to this height and width first.
        rgb: repeat grey images to three channels first.
        inception: the extractor has the Inception weights (2015-12-05), so the metric is named ``fid``.
    """

    by_default = False

    def __init__(
        self, extractor: str, size: PositiveInt | None = None, rgb: bool = False, inception: bool = False
    ) -> None:
        self.path = Path(extractor)
        self.size = size
        self.rgb = rgb
        self.inception = inception

    def __call__(self, context: EvaluationContext) -> Sequence[Measurement]:
        """Measure `frechet_<extractor>`, or `fid`.

        Raises:
            DataError: the extractor cannot be loaded.
            NotApplicable: there are fewer than two images, or the data are not complete images.
        """
        if len(context) < 2:
            raise NotApplicable("the covariance needs at least two images")
        if len(context.dataset.shape) != 3 or context.dataset.train.mask is not None:
            raise NotApplicable("the extractor needs images (C, H, W) without missing entries")
        name, digest, extract = load_extractor(self.path, context.device)
        image_features, sample_features = [], []
        for batch in context.batches():
            prior = context.vae.prior(context.vae.encoder, batch.condition)
            z = prior.sample() if prior.batch_shape else prior.sample(torch.Size([len(batch.x)]))
            samples = context.vae.decode(z, batch.condition).mean
            image_features.append(extract(self._preprocess(batch.x)).flatten(1).cpu().double())
            sample_features.append(extract(self._preprocess(samples)).flatten(1).cpu().double())
        features = torch.cat(image_features)
        protocol = {"samples": len(context), "features": features.shape[1], "extractor sha256": digest}
        name = "fid" if self.inception else f"frechet_{name}"
        singular = features.shape[1] >= len(features)
        note = "fewer images than features: the covariances are singular" if singular else ""
        return [Measurement(name, frechet(features, torch.cat(sample_features)), "", protocol, note=note)]

    def _preprocess(self, images: Tensor) -> Tensor:
        if self.rgb and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.size is not None:
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images


def frechet(a: Tensor, b: Tensor) -> float:
    """The squared Frechet distance between Gaussians fitted to features (N, D) and (M, D), in float64.

    tr (C C')^(1/2) is computed as tr (C^(1/2) C' C^(1/2))^(1/2), whose argument is symmetric.
    """
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    c, d = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(c)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ d @ root).clamp_min(0).sqrt().sum()
    return float((mean + c.trace() + d.trace() - 2 * cross).item())


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
