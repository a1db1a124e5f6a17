"""Metrics of images: PSNR, SSIM, distances between features, and the use of a codebook."""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import zoo
from toys import GivenPosterior, GivenPrior
from zoo.evaluation.evaluate import measure
from zoo.recipes.schema import ComponentSpec
from zoo_discrete.quantizer import Quantized
from zoo_metrics.frechet import frechet
from zoo_metrics.kernel import squared_mmd
from zoo_metrics.similarity import psnr, ssim


class Wave(zoo.Decoder):
    """Reconstructs images, which are their own latent, with a fixed error."""

    def __init__(self, error: Tensor) -> None:
        super().__init__()
        self.register_buffer("error", error)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        return Independent(Normal(z + self.error, 1.0), 3)


def context(shape: tuple[int, int, int] = (3, 12, 14), n: int = 30, error: float = 0.1) -> zoo.EvaluationContext:
    """A model whose reconstructions differ from the images by a wave, and whose samples are noise."""
    torch.manual_seed(0)
    wave = error * torch.sin(torch.arange(math.prod(shape)).view(shape) / 3)
    posterior = GivenPosterior(lambda x: Independent(Normal(x, 1.0), 3))
    prior = GivenPrior(Independent(Normal(torch.full(shape, 0.5), 0.2), 3))
    split = zoo.Split(torch.randint(0, 256, (n, *shape), dtype=torch.uint8))
    return zoo.EvaluationContext(
        zoo.VAE(posterior, Wave(wave), prior), zoo.recipe("mlp-vae"), zoo.Dataset(split, split)
    )


def evaluate(metric: str, context: zoo.EvaluationContext, /, **settings: object) -> dict[str, zoo.Measurement]:
    measurements = measure(context, [ComponentSpec(use=metric, **settings)], by_default=False).measurements[metric]
    return {one.name: one for one in measurements}


def images_of(of: zoo.EvaluationContext) -> tuple[Tensor, Tensor]:
    """The images and their reconstructions."""
    x = of.dataset.test.x / 255
    return x, of.vae.reconstruct(x)


# --- PSNR and SSIM


def test_psnr():
    a = torch.zeros(3, 1, 2, 2)
    b = torch.tensor([0.1, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    torch.testing.assert_close(psnr(a, b), torch.tensor([20.0, 0.0, 100.0]))


def test_ssim_from_its_definition():
    """Wang et al. 2004, eq. 13, window by window in float64."""
    generator = np.random.default_rng(0)
    a, b = generator.random((13, 15)), generator.random((13, 15))
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    values = []
    for i in range(3):
        for j in range(5):
            u, v = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mean_u, mean_v = (window * u).sum(), (window * v).sum()
            covariance = (window * (u - mean_u) * (v - mean_v)).sum()
            variances = (window * (u - mean_u) ** 2).sum() + (window * (v - mean_v) ** 2).sum()
            c1, c2 = 0.01**2, 0.03**2
            luminance = (2 * mean_u * mean_v + c1) / (mean_u**2 + mean_v**2 + c1)
            values.append(luminance * (2 * covariance + c2) / (variances + c2))
    images = (torch.from_numpy(image)[None, None] for image in (a, b))
    assert ssim(*images).item() == pytest.approx(np.mean(values), rel=1e-9)


def test_identical_and_constant_images():
    x = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(ssim(x, x), torch.ones(2, dtype=torch.float64))
    dark, bright = torch.zeros(1, 1, 11, 11), torch.ones(1, 1, 11, 11)
    assert ssim(dark, bright).item() == pytest.approx(1e-4 / (1 + 1e-4))


def test_agreement_with_torchmetrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional = pytest.importorskip("torchmetrics.functional.image")
    x, y = images_of(context())
    _, similarity = functional.structural_similarity_index_measure(y, x, data_range=1.0, return_full_image=True)
    inside = similarity[..., 5:-5, 5:-5]  # it pads the images; where the window is inside, both agree
    torch.testing.assert_close(ssim(y, x), inside.flatten(1).mean(1).double(), rtol=1e-4, atol=1e-5)
    expected = functional.peak_signal_noise_ratio(y, x, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(y, x), expected, rtol=1e-5, atol=1e-5)


def test_the_similarity_of_reconstructions():
    of = context()
    x, y = images_of(of)
    measured = evaluate("image-similarity", of)
    assert measured["psnr"].value == pytest.approx(psnr(y, x).mean().item(), rel=1e-6)
    assert measured["psnr"].unit == "dB"
    assert measured["psnr"].value == pytest.approx(-10 * math.log10(0.01 / 2), abs=0.1)  # a sine has mean square 1/2
    assert measured["ssim"].value == pytest.approx(ssim(y, x).mean().item(), rel=1e-6)
    assert list(evaluate("image-similarity", context((1, 8, 8)))) == ["psnr"]  # smaller than the window of SSIM
    masked = context()
    masked.dataset.train.__dict__["mask"] = torch.ones_like(masked.dataset.train.x, dtype=torch.bool)
    with pytest.raises(zoo.NotApplicable, match="without missing entries"):
        evaluate("image-similarity", masked)


# --- distances between features


class Colors(nn.Module):
    """The mean and the mean square of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x.mean((2, 3)), x.square().mean((2, 3))), 1)


@pytest.fixture
def extractor(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        torch.jit.save(torch.jit.trace(Colors(), torch.zeros(2, 3, 12, 14)), tmp_path / "colors.pt")
    return tmp_path / "colors.pt"


def brute_force_mmd(a: Tensor, b: Tensor) -> float:
    """arXiv 1801.01401, eq. 4, pair by pair."""

    def k(u: Tensor, v: Tensor) -> float:
        return ((u @ v).item() / len(u) + 1) ** 3

    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(k(u, v) for u in a for v in b) / (n * m)


def test_the_squared_mmd_by_brute_force():
    torch.manual_seed(0)
    a, b = torch.randn(7, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64) + 1
    assert squared_mmd(a, b).item() == pytest.approx(brute_force_mmd(a, b), rel=1e-10)


def test_the_squared_mmd_is_unbiased():
    """Its mean over independent samples of one distribution is zero within its error; the biased one is above."""
    torch.manual_seed(0)
    values = torch.stack([squared_mmd(*torch.randn(2, 6, 2, dtype=torch.float64)) for _ in range(2000)])
    assert values.mean().abs() < 3 * values.std() / 2000**0.5


@pytest.mark.parametrize(("use", "name"), [("frechet", "frechet"), ("kernel-distance", "kernel-distance")])
def test_the_distances_of_samples_and_of_reconstructions(use, name, extractor):
    """They are named after the extractor and what they compare; only the Inception weights make them FID and KID."""
    of = context()
    x, y = (Colors()(images).double() for images in images_of(of))
    distance = frechet if use == "frechet" else brute_force_mmd
    measured = evaluate(use, of, extractor=str(extractor), of=["reconstructions", "samples"])
    assert list(measured) == [f"reconstruction-{name}_colors", f"{name}_colors"]
    assert measured[f"reconstruction-{name}_colors"].value == pytest.approx(distance(x, y), rel=1e-4, abs=1e-9)
    alone = evaluate(use, of, extractor=str(extractor))
    assert list(alone) == [f"{name}_colors"]
    protocol = alone[f"{name}_colors"].protocol
    assert protocol["extractor sha256"] == hashlib.sha256(extractor.read_bytes()).hexdigest()
    short = {"frechet": "fid", "kernel-distance": "kid"}[use]
    both = evaluate(use, of, extractor=str(extractor), of=["samples", "reconstructions"], inception=True)
    assert list(both) == [short, f"reconstruction-{short}"]
    assert both[short].value == alone[f"{name}_colors"].value


def test_subsets_of_the_kernel_distance(extractor):
    """The mean over random subsets agrees with the estimate from all images, and has a standard error."""
    of = context()
    settings = {"extractor": str(extractor), "of": ["reconstructions"]}
    (whole,) = evaluate("kernel-distance", of, **settings).values()
    (mean,) = evaluate("kernel-distance", of, **settings, subsets=50, subset_size=20).values()
    assert (whole.protocol["subsets"], whole.protocol["subset size"]) == (1, 30)
    assert (mean.protocol["subsets"], mean.protocol["subset size"]) == (50, 20)
    assert whole.error is None
    assert abs(mean.value - whole.value) < 4 * mean.error
    (again,) = evaluate("kernel-distance", of, **settings, subsets=50, subset_size=20).values()
    assert again == mean


def test_what_is_compared_is_checked(extractor):
    with pytest.raises(zoo.RecipeError, match="of"):
        evaluate("frechet", context(), extractor=str(extractor), of=["draws"])


# --- the codebook


def test_the_use_of_a_codebook_by_hand():
    """Two quantizers on a grid: one uses all four vectors evenly, the other half of them, three to one."""
    first, second = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 1, 3])

    def q(x: Tensor) -> Distribution:
        indices = torch.stack((first, second), -1).expand(len(x), 2, 4, 2)  # a grid of two, four codes each
        z = torch.zeros(len(x), 2, 4, 1)
        return Quantized(z, indices, torch.zeros(len(x)), 4)

    of = context()
    of.vae.encoder = GivenPosterior(q)
    measured = evaluate("codebook", of)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert measured["codebook-perplexity"].value == pytest.approx((4 + math.exp(entropy)) / 2)
    assert measured["codebook-use"].value == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(zoo.NotApplicable, match="the latent has no codes"):
        evaluate("codebook", context())
