"""Samples against images, by the first two moments of features."""

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
    """The distance of two Gaussians fitted to features of images and of samples (arXiv 1706.08500, eq. 6).

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))

    There are as many samples, means of p(x | z) at draws from the prior, as images. The number depends on the extractor
    and on their count, so it is named after the one and states the other: only with the Inception weights of the
    paper is it the FID.

    Args:
        extractor: a TorchScript file (``.pt``, ``.ts``), an exported program (``.pt2``), or a run of the zoo, whose
            posterior means are then the features. It gets images (N, C, H, W) in [0, 1]. Torch may run what the author
            of a file put into it: take one from somebody whose package you would install.
        size: images are resized to so many rows and columns first.
        rgb: grey images are repeated into three channels first.
        inception: the file is that of the Inception weights (2015-12-05), so the number is named ``fid``.
    """

    by_default = False

    def __init__(
        self, extractor: str, size: PositiveInt | None = None, rgb: bool = False, inception: bool = False
    ) -> None:
        self.path = Path(extractor)
        self.size = size
        self.rgb = rgb
        self.inception = inception

    def __call__(self, subject: EvaluationContext) -> Sequence[Measurement]:
        """Measure `frechet_<extractor>`.

        Raises:
            DataError: the extractor cannot be read.
            NotApplicable: there is a single image.
        """
        if len(subject) < 2:
            raise NotApplicable("one image has no covariance")
        if len(subject.dataset.shape) != 3 or subject.dataset.train.mask is not None:
            raise NotApplicable("the features are of complete images (C, H, W)")
        name, digest, extract = load_extractor(self.path, subject.device)
        real, drawn = [], []
        for batch in subject.batches():
            prior = subject.vae.prior(subject.vae.encoder, batch.condition)
            z = prior.sample() if prior.batch_shape else prior.sample(torch.Size([len(batch.x)]))
            samples = subject.vae.decode(z, batch.condition).mean
            real.append(extract(self._prepared(batch.x)).flatten(1).cpu().double())
            drawn.append(extract(self._prepared(samples)).flatten(1).cpu().double())
        features = torch.cat(real)
        protocol = {"samples": len(subject), "features": features.shape[1], "extractor sha256": digest}
        name = "fid" if self.inception else f"frechet_{name}"
        few = features.shape[1] >= len(features)
        note = "fewer images than features: the covariances are singular" if few else ""
        return [Measurement(name, frechet(features, torch.cat(drawn)), "", protocol, note=note)]

    def _prepared(self, images: Tensor) -> Tensor:
        if self.rgb and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.size is not None:
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images


def frechet(a: Tensor, b: Tensor) -> float:
    """The squared Frechet distance of the Gaussians fitted to features (N, D) and (M, D), in float64.

    The trace of (C C')^(1/2) is that of (C^(1/2) C' C^(1/2))^(1/2), which is symmetric and has no complex part.
    """
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    c, d = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(c)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ d @ root).clamp_min(0).sqrt().sum()
    return float((mean + c.trace() + d.trace() - 2 * cross).item())


def load_extractor(path: Path, device: torch.device) -> tuple[str, str, Callable[[Tensor], Tensor]]:
    """The name, the digest of the weights, and the function from images to features.

    Raises:
        DataError: there is no such file, or it holds no such thing.
    """
    if path.is_dir() or str(path) in zoo.list_weights():
        run = zoo.Run.open(str(path))
        vae = run.load().to(device)
        return run.recipe.name, _sha256(run.path / "model.safetensors"), lambda images: vae.encode(images).mean
    if not path.is_file():
        raise DataError(f"There is no feature extractor {path}: give a .pt, .ts or .pt2 file, or a run of the zoo.")
    try:
        if path.suffix == ".pt2":
            module: Callable[[Tensor], Tensor] = torch.export.load(path).module().to(device)
        else:
            with warnings.catch_warnings():
                # The Inception weights that everybody compares with are TorchScript, which torch would replace.
                warnings.filterwarnings("ignore", ".*torch.jit.load")
                module = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise DataError(f"{path} holds no TorchScript or exported program: {str(error).splitlines()[0]}") from error
    return path.stem, _sha256(path), module


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
