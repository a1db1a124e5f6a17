"""Every sampler against its own density, in float32 and over the range of its parameters.

The density is integrated numerically. In one dimension samples are compared with its distribution function
(Kolmogorov-Smirnov); in two, with that of each dimension, and their counts in a grid of cells with the mass of each
cell (chi-squared). Categories are counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import cumulative_trapezoid
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot

import zoo
from toys import GivenPosterior

DRAWS = 20_000
CELLS = 8
LEAST_P = 1e-4
"""Seeds are fixed: a test that passes, passes always."""

Case = Callable[[], None]
Chart = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""Coordinates of a point, the point at coordinates, and the log of a volume of the space for one of coordinates."""


def draw(distribution: Distribution) -> Tensor:
    """Draw (DRAWS, *event) from a distribution with one batch element, and check the densities returned with them."""
    torch.manual_seed(0)
    if hasattr(distribution, "rsample_and_log_prob"):
        z, log_density = distribution.rsample_and_log_prob(torch.Size([DRAWS]))
        torch.testing.assert_close(log_density, distribution.log_prob(z), rtol=1e-3, atol=1e-2)
    else:
        draw = distribution.rsample if distribution.has_rsample else distribution.sample
        z = draw(torch.Size([DRAWS]))
    assert z.dtype == torch.float32
    return z.detach().reshape(DRAWS, *distribution.event_shape)


def density(distribution: Distribution, points: Tensor) -> np.ndarray:
    """The density of points (M, *event), in float64."""
    leading = (len(points), *distribution.batch_shape)
    with torch.no_grad():
        log_density = distribution.log_prob(points.reshape(*leading, *distribution.event_shape))
    assert log_density.dtype == torch.float32
    return log_density.double().exp().flatten().numpy()


def require_uniform(values: np.ndarray) -> None:
    assert stats.kstest(values, "uniform").pvalue > LEAST_P


def require_counts(counts: np.ndarray, mass: np.ndarray) -> None:
    """Chi-squared test; cells with an expected count below five are merged."""
    assert mass.sum() == pytest.approx(1, abs=5e-3)
    expected = mass / mass.sum() * counts.sum()
    rare = expected < 5
    counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    if expected[-1] < 5:
        assert counts[-1] < 25
        counts, expected = counts[:-1], expected[:-1]
    if len(counts) > 1:
        assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > LEAST_P


def along_a_line(distribution: Distribution, low: float | None = None, high: float | None = None) -> None:
    """A one-dimensional latent, or an image of one pixel."""
    z = draw(distribution).flatten().double()
    spread = (z.max() - z.min()).item()
    low, high = (z.min().item() - spread if low is None else low), (z.max().item() + spread if high is None else high)
    near_an_end = np.geomspace(1e-12, 1, 20_001) * (high - low)
    line = np.concatenate([np.linspace(low, high, 20_001), low + near_an_end, high - near_an_end])
    points = torch.from_numpy(np.sort(line)).float().clamp(low, high).unique()
    x = points.double().numpy()
    share = cumulative_trapezoid(density(distribution, points), x, initial=0)
    assert share[-1] == pytest.approx(1, abs=5e-3)
    require_uniform(np.interp(z.numpy(), x, share / share[-1]))


def on_a_plane(
    distribution: Distribution,
    chart: Chart | None = None,
    box: tuple[tuple[float, float], tuple[float, float]] | None = None,
    points: int = 200,
) -> None:
    """Two dimensions, or a manifold with two coordinates."""
    z = draw(distribution)
    coordinates = (z if chart is None else chart[0](z.flatten(1))).double()
    assert coordinates.isfinite().all()
    if box is None:
        low, high = coordinates.min(0).values, coordinates.max(0).values
        margin = (high - low) / 4
        box = tuple(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))
    # The axes are finer where samples are dense.
    quantiles = coordinates.quantile(torch.linspace(0, 1, points, dtype=torch.float64), dim=0).unbind(1)
    lines = [torch.linspace(*bounds, points, dtype=torch.float64) for bounds in box]
    axes = [torch.cat(pair).float().unique() for pair in zip(lines, quantiles, strict=True)]
    grid = torch.cartesian_prod(*axes)
    p = density(distribution, grid if chart is None else chart[1](grid))
    if chart is not None:
        p = p * chart[2](grid).double().exp().numpy()
    x, y = (axis.double().numpy() for axis in axes)
    below = cumulative_trapezoid(p.reshape(len(x), len(y)), y, axis=1, initial=0)
    below = cumulative_trapezoid(below, x, axis=0, initial=0)
    assert below[-1, -1] == pytest.approx(1, abs=5e-3)
    below /= below[-1, -1]

    edges, places = [], []
    for axis, share, values in ((x, below[:, -1], coordinates[:, 0]), (y, below[-1], coordinates[:, 1])):
        require_uniform(np.interp(values.numpy(), axis, share))
        inner = np.interp(np.arange(1, CELLS) / CELLS, share, axis)
        edges.append(np.array([axis[0], *inner, axis[-1]]))
        places.append(np.searchsorted(inner, values.numpy()))
    corners = np.stack(np.meshgrid(*edges, indexing="ij"), -1)
    mass = np.diff(np.diff(RegularGridInterpolator((x, y), below)(corners), axis=0), axis=1)
    counts = np.bincount(places[0] * CELLS + places[1], minlength=CELLS**2)
    require_counts(counts, mass.clip(0).flatten())


def by_counting(distribution: Distribution, values: Tensor) -> None:
    """A discrete distribution with the support `values` (M, *event)."""
    for z in (draw(distribution), distribution.sample(torch.Size([DRAWS]))):
        apart = torch.cdist(z.reshape(DRAWS, -1), values.flatten(1).to(z), compute_mode="donot_use_mm_for_euclid_dist")
        assert apart.min(1).values.max() < 1e-4
        require_counts(np.bincount(apart.argmin(1), minlength=len(values)), density(distribution, values))


def number_and_category(distribution: Distribution, categories: int) -> None:
    """One continuous dimension and a one-hot vector."""
    z = draw(distribution)
    numbers, kinds = z[:, 0], z[:, 1:].argmax(1)
    line = torch.linspace(float(numbers.min()) - 3, float(numbers.max()) + 3, 4001)
    mass = []
    for kind in range(categories):
        at = torch.cat([line.unsqueeze(1), one_hot(torch.full((len(line),), kind), categories).float()], 1)
        share = cumulative_trapezoid(density(distribution, at), line.double().numpy(), initial=0)
        mass.append(share[-1])
        chosen = numbers[kinds == kind].double().numpy()
        if len(chosen):
            require_uniform(np.interp(chosen, line.double().numpy(), share / share[-1]))
    require_counts(np.bincount(kinds, minlength=categories), np.array(mass))


def perturb(module: nn.Module, strength: float) -> nn.Module:
    """Add noise of scale `strength` to every parameter, including those initialised to 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(strength * torch.randn_like(parameter))
    return module.eval()


def posterior(name: str, strength: float = 0.0, latent_dim: int = 2, /, **parameters) -> Distribution:
    """The posterior of a head for three features of 0, in evaluation mode."""
    torch.manual_seed(0)
    head = perturb(zoo.ComponentFactory("posterior", name, **parameters)(features=3, latent_dim=latent_dim), strength)
    return head(torch.randn(1, 3))


def of_log_variance(name: str, log_variance: float) -> Distribution:
    """A Gaussian head with mean 0 and the given log-variances."""
    head = zoo.ComponentFactory("posterior", name)(features=3, latent_dim=2)
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    nn.init.constant_(head.linear.bias[2:4], log_variance)
    if name == "full-covariance":
        nn.init.constant_(head.linear.bias[4:], 1.5)
    return head(torch.zeros(1, 3))


def prior(name: str, strength: float = 0.0, latent_shape: tuple[int, ...] = (2,), /, **parameters) -> zoo.Prior:
    """A perturbed prior."""
    torch.manual_seed(0)
    spaces = {"latent_shape": latent_shape, "latent_dim": latent_shape[0], "data_shape": (1, 2, 2), "classes": 3}
    encoder = parameters.pop("model_encoder", None)
    return perturb(zoo.ComponentFactory("prior", name, **parameters)(**spaces, model_encoder=encoder), strength)


def encoder(name: str, strength: float = 0.0, /, latent_dim: int = 2, **parameters) -> zoo.Encoder:
    torch.manual_seed(0)
    make = zoo.ComponentFactory("encoder", name, **parameters)
    return perturb(make(data_shape=(1, 2, 2), latent_dim=latent_dim, classes=0), strength)


def fit_to_cloud(name: str, **parameters) -> Distribution:
    """A prior fitted to skewed samples whose dimensions have different scales."""
    one = prior(name, **parameters)
    torch.manual_seed(0)
    z = torch.randn(300, 2)
    one.fit(torch.stack([10 + 0.1 * (z[:, 0] + 0.5 * z[:, 1] ** 2), 30 * z[:, 1]], 1), encoder("mlp"))
    return one(encoder("mlp"))


def likelihood(name: str, *values: float, **parameters) -> Distribution:
    """The likelihood of an image of one pixel, given the decoder's output."""
    return zoo.ComponentFactory("likelihood", name, **parameters)(data_shape=(1, 1, 1))(
        torch.tensor(values).view(1, 1, 1, 1, -1)
    )


# --- charts

SIMPLEX: Chart = (
    lambda z: z[:, :2].log() - z[:, 2:].log(),
    lambda y: torch.cat([y, torch.zeros_like(y[:, :1])], 1).softmax(1),
    lambda y: torch.cat([y, torch.zeros_like(y[:, :1])], 1).log_softmax(1).sum(1),
)


def around(pole: Tensor) -> Chart:
    """The angle to a unit vector in R^3, and the azimuth."""
    frame = torch.linalg.qr(torch.cat([pole.unsqueeze(1), torch.eye(3)[:, :2] + 0.1], 1)).Q
    frame = frame * torch.sign(frame[:, :1].T @ pole)

    def coordinates(z: Tensor) -> Tensor:
        angle = 2 * ((z - pole).norm(dim=1) / 2).clamp(max=1).asin()
        return torch.stack([angle, torch.atan2(z @ frame[:, 2], z @ frame[:, 1])], 1)

    def point(at: Tensor) -> Tensor:
        t, phi = at.unbind(1)
        flat = phi.cos().unsqueeze(1) * frame[:, 1] + phi.sin().unsqueeze(1) * frame[:, 2]
        return t.cos().unsqueeze(1) * pole + t.sin().unsqueeze(1) * flat

    return coordinates, point, lambda at: at[:, 0].sin().clamp_min(0).log()


def on_the_sphere(distribution: Distribution, pole: Tensor, reach: float = math.pi) -> None:
    on_a_plane(distribution, around(pole), ((0.0, min(math.pi, reach)), (-math.pi, math.pi)))


def one_hots(variables: int, categories: int) -> Tensor:
    values = itertools.product(range(categories), repeat=variables)
    return one_hot(torch.tensor(list(values)), categories).float()


# --- the components and the ranges of their parameters


def relaxed(temperature: float, strength: float) -> None:
    torch.manual_seed(0)
    head = zoo.ComponentFactory("posterior", "gumbel-softmax", categories=3, temperature=temperature)(
        features=3, latent_dim=1
    )
    on_a_plane(perturb(head, strength).train()(torch.randn(1, 3)), SIMPLEX)


def hard(temperature: float, strength: float) -> None:
    least = min(temperature, 0.5)
    q = posterior("gumbel-softmax", strength, categories=3, temperature=temperature, min_temperature=least, hard=True)
    by_counting(q, one_hots(2, 3))


def von_mises_fisher(concentration: float) -> None:
    q = posterior("von-mises-fisher", floor=concentration)
    on_the_sphere(q, q.direction[0].detach(), 8 / concentration**0.5)


def angle_of_von_mises_fisher(size: int, concentration: float) -> None:
    """In R^size, where the volume element of the angle t between mu and z is the area of a sphere of radius sin t."""
    q = posterior("von-mises-fisher", 0.0, size - 1, floor=concentration)
    mu = q.direction[0].detach()
    across = torch.linalg.qr(torch.stack([mu, torch.eye(size)[0] + 0.1], 1)).Q[:, 1]
    angles = 2 * ((draw(q) - mu).norm(dim=1) / 2).clamp(max=1).asin().double()
    t = torch.linspace(0, min(math.pi, 1.5 * float(angles.max())), 20_001)[1:]
    log_area = math.log(2) + (size - 1) / 2 * math.log(math.pi) - math.lgamma((size - 1) / 2)
    with torch.no_grad():
        log_density = q.log_prob((t.cos().unsqueeze(1) * mu + t.sin().unsqueeze(1) * across).unsqueeze(1)).flatten()
    by_angle = log_density.double() + log_area + (size - 2) * t.double().sin().abs().log()
    share = cumulative_trapezoid(by_angle.exp().numpy(), t.double().numpy(), initial=0)
    assert share[-1] == pytest.approx(1, abs=5e-3)
    require_uniform(np.interp(angles.numpy(), t.double().numpy(), share / share[-1]))


def codes(name: str, **parameters) -> None:
    quantiser = zoo.ComponentFactory("posterior", "vector-quantized", codebook_size=3, dim=2)
    torch.manual_seed(0)
    model = zoo.VAE(nn.Module(), nn.Module(), nn.Module())
    model.encoder.head = quantiser(features=3, latent_dim=2)
    head = model.encoder.head
    indices = torch.tensor(list(itertools.product(range(3), repeat=2))).unsqueeze(-1)
    by_counting(
        prior(name, 0.5, (2, 2), model_encoder=model.encoder, **parameters)(model.encoder), head.codes_of(indices)
    )


def joint_prior() -> None:
    model = nn.Module()
    model.head = zoo.ComponentFactory("posterior", "joint", discrete={"use": "gumbel-softmax", "categories": 3})(
        features=3, latent_dim=1
    )
    number_and_category(prior("joint", 0.0, (4,), model_encoder=model)(model), 3)


def vamp() -> None:
    inside = GivenPosterior(lambda x: posterior_of(x))

    def posterior_of(x: Tensor) -> Distribution:
        mean = 3 * x.flatten(1)[:, :2]
        return torch.distributions.Independent(zoo.Gaussian(mean, x.flatten(1)[:, 2:] - 1), 1)

    on_a_plane(prior("vamp", pseudo_inputs=7)(inside))


def conditional_normal() -> None:
    p = prior("conditional-normal", 1.0)
    on_a_plane(p(encoder("mlp"), torch.tensor([2])))
    on_a_plane(p(encoder("mlp")))


def bernoulli(logit: float) -> None:
    by_counting(likelihood("bernoulli", logit), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))


def two_level_posterior() -> Distribution:
    inner = {"use": "mlp", "hidden": [4]}
    return encoder("two-level", 0.3, latent_dim=1, upper=1, hidden=[4], encoder=inner)(torch.rand(1, 1, 2, 2))


def ladder() -> zoo.Encoder:
    return encoder("ladder", 0.3, latent_dim=1, upper=[1], hidden=[4, 4], down=[4])


def top_down() -> zoo.Encoder:
    inner = {"use": "mlp", "hidden": [4]}
    return encoder("top-down", 0.3, latent_dim=1, upper=1, width=4, encoder=inner)


def very_deep() -> zoo.Encoder:
    """Two levels of one dimension."""
    return encoder("very-deep", 0.3, latent_dim=1, blocks=[0, 2], width=4, bottleneck=4)


LOG_VARIANCES = (-110.0, -80.0, -20.0, 0.0, 20.0, 80.0)
CASES: dict[str, dict[str, Case]] = {
    "posterior/gaussian": {
        **{f"log-variance {v:g}": lambda v=v: on_a_plane(of_log_variance("gaussian", v)) for v in LOG_VARIANCES},
        "any": lambda: on_a_plane(posterior("gaussian", 1.0)),
    },
    "posterior/full-covariance": {
        **{f"log-variance {v:g}": lambda v=v: on_a_plane(of_log_variance("full-covariance", v)) for v in LOG_VARIANCES},
        "any": lambda: on_a_plane(posterior("full-covariance", 1.0)),
    },
    "posterior/planar": {f"strength {s}": lambda s=s: on_a_plane(posterior("planar", s, layers=3)) for s in (0.3, 1.0)},
    "posterior/iaf": {f"strength {s}": lambda s=s: on_a_plane(posterior("iaf", s, hidden=[8])) for s in (0.1, 0.3)},
    "posterior/gumbel-softmax": {
        **{
            f"relaxed at {t}, strength {s}": lambda t=t, s=s: relaxed(t, s)
            for t, s in ((0.2, 0.0), (0.2, 1.0), (0.5, 2.0), (1.0, 0.5), (10.0, 1.0))
        },
        **{
            f"hard at {t}, strength {s}": lambda t=t, s=s: hard(t, s)
            for t, s in ((1e-6, 1.0), (0.5, 0.0), (1.0, 2.0), (1e3, 1.0), (1e8, 1.0))
        },
    },
    "posterior/joint": {
        "three categories": lambda: number_and_category(
            posterior("joint", 0.5, 1, discrete={"use": "gumbel-softmax", "categories": 3}), 3
        )
    },
    "posterior/von-mises-fisher": {
        **{f"concentration {k:g}": lambda k=k: von_mises_fisher(k) for k in (0.01, 1.0, 30.0, 1e3, 1e5)},
        **{
            f"concentration {k:g} in R^{m}": lambda m=m, k=k: angle_of_von_mises_fisher(m, k)
            for m in (2, 5, 11, 201)
            for k in (1e-3, 1.0, 100.0, 1e4)
        },
    },
    "posterior/wrapped-normal": {
        f"curvature {c}, strength {s}": lambda c=c, s=s: on_a_plane(posterior("wrapped-normal", s, curvature=c))
        for c, s in ((1.0, 0.0), (1.0, 0.3), (0.1, 0.5))
    },
    "encoder/two-level": {"any": lambda: on_a_plane(two_level_posterior())},
    "encoder/ladder": {"any": lambda: on_a_plane(ladder()(torch.rand(1, 1, 2, 2)))},
    "encoder/top-down": {"any": lambda: on_a_plane(top_down()(torch.rand(1, 1, 2, 2)))},
    "encoder/very-deep": {"any": lambda: on_a_plane(very_deep()(torch.rand(1, 1, 2, 2)))},
    "prior/standard-normal": {"any": lambda: on_a_plane(prior("standard-normal")(encoder("mlp")))},
    "prior/mixture": {
        f"strength {s}": lambda s=s: on_a_plane(prior("mixture", s, components=5)(encoder("mlp"))) for s in (0.0, 1.0)
    },
    "prior/vamp": {"any": vamp},
    "prior/flow": {
        **{
            f"{kind}, strength {s}": lambda kind=kind, s=s: on_a_plane(
                prior("flow", s, architecture=kind, hidden=[8])(encoder("mlp"))
            )
            for kind in ("masked-autoregressive", "coupling")
            for s in (0.0, 0.2)
        },
        "fitted": lambda: on_a_plane(fit_to_cloud("flow", steps=50, hidden=[8])),
    },
    "prior/gaussian-mixture": {
        "unfitted": lambda: on_a_plane(prior("gaussian-mixture", components=3)(encoder("mlp"))),
        **{
            kind: lambda kind=kind: on_a_plane(fit_to_cloud("gaussian-mixture", components=3, covariance=kind))
            for kind in ("full", "diagonal")
        },
    },
    "prior/two-stage": {
        f"strength {s}": lambda s=s: on_a_plane(
            prior(
                "two-stage",
                s,
                encoder={"use": "mlp", "hidden": [4]},
                decoder={"use": "mlp", "hidden": [4], "likelihood": {"use": "gaussian", "scale": "pixelwise"}},
                samples=64,
            )(encoder("mlp")),
            points=40,
        )
        for s in (0.0, 0.2)
    },
    "prior/conditional-normal": {"with labels and without": conditional_normal},
    "prior/uniform-categorical": {
        "any": lambda: by_counting(prior("uniform-categorical", 0.0, (2, 3))(encoder("mlp")), one_hots(2, 3))
    },
    "prior/joint": {"three categories": joint_prior},
    "prior/uniform-codes": {"any": lambda: codes("uniform-codes")},
    "prior/autoregressive-codes": {"any": lambda: codes("autoregressive-codes", hidden=4)},
    "prior/uniform-sphere": {
        "any": lambda: on_the_sphere(prior("uniform-sphere", 0.0, (3,))(encoder("mlp")), torch.eye(3)[2])
    },
    "prior/wrapped-normal": {
        f"scale {s}": lambda s=s: on_a_plane(prior("wrapped-normal", scale=s)(on_a_ball())) for s in (0.1, 0.7)
    },
    "prior/two-level": {
        "any": lambda: on_a_plane(
            zoo.ComponentFactory("prior", "two-level", hidden=[4])(latent_dim=1, latent_shape=(2,))(None)
        )
    },
    "prior/top-down": {
        "any": lambda: on_a_plane(
            perturb(
                zoo.ComponentFactory("prior", "top-down", width=4)(
                    data_shape=(1, 2, 2), latent_dim=1, latent_shape=(2,), classes=0
                ),
                0.3,
            )(top_down())
        )
    },
    "prior/very-deep": {"any": lambda: on_a_plane(zoo.ComponentFactory("prior", "very-deep")()(very_deep()))},
    "prior/ladder": {"any": lambda: on_a_plane(zoo.ComponentFactory("prior", "ladder")()(ladder()))},
    "likelihood/bernoulli": {f"logit {v}": lambda v=v: bernoulli(v) for v in (-200.0, -5.0, -0.1, 0.0, 2.0, 90.0)},
    "likelihood/continuous-bernoulli": {
        f"logit {v:g}": lambda v=v: along_a_line(likelihood("continuous-bernoulli", v), 0.0, 1.0)
        for v in (-1e4, -40.0, -1.0, -0.0999, -1e-3, -1e-7, 0.0, 1e-7, 0.05, 0.101, 5.0, 100.0, 1e3)
    },
    "likelihood/gaussian": {
        **{
            f"scale {s:g}": lambda s=s: along_a_line(likelihood("gaussian", 0.0, scale=s))
            for s in (1e-30, 1e-10, 0.1, 1.0, 1e10, 1e30)
        },
        "shared": lambda: along_a_line(likelihood("gaussian", 0.5, scale="shared")),
        **{
            f"pixelwise {v:g}": lambda v=v: along_a_line(likelihood("gaussian", 0.0, v, scale="pixelwise"))
            for v in (-80.0, -7.0, 0.0, 80.0)
        },
    },
    "likelihood/discretized-logistic": {
        f"logit {m:g}, log-scale {s:g}": lambda m=m, s=s: by_counting(
            likelihood("discretized-logistic", m, s), torch.arange(256).view(256, 1, 1, 1) / 255
        )
        for m, s in ((0.0, -4.5), (0.5, -2.0), (-8.0, 0.0), (8.0, -3.0))
    },
    "likelihood/discretized-logistic-mixture": {
        f"log-scale {s:g}": lambda s=s: by_counting(
            likelihood("discretized-logistic-mixture", 1.0, 0.0, -0.5, 0.8, s, s - 1, components=2),
            torch.arange(256).view(256, 1, 1, 1) / 255,
        )
        for s in (-6.0, -2.0, 0.0)
    },
    "likelihood/log-cosh": {
        f"sharpness {a:g}, scale {s:g}": lambda a=a, s=s: along_a_line(
            likelihood("log-cosh", 0.0, sharpness=a, scale=s)
        )
        for a in (1e-6, 0.1, 1.0, 10.0, 100.0, 1e3, 1e5)
        for s in (0.01, 1.0)
    },
}

NO_SAMPLER = {
    "posterior/deterministic": "a point mass",
    "posterior/vector-quantized": "a point mass",
    "posterior/finite-scalar": "a point mass",
    "likelihood/squared-error": "an energy",
    "likelihood/ms-ssim": "an energy",
}

ELSEWHERE = {
    "likelihood/mixed": "test_mixed.py",
    "likelihood/poisson": "test_counts.py",
    "likelihood/negative-binomial": "test_counts.py",
    "likelihood/zero-inflated-negative-binomial": "test_counts.py",
    "prior/library": "test_counts.py",
    "likelihood/student-t": "test_missing.py",
    "posterior/student-t": "test_missing.py",
}
"""Components whose densities and samples are tested with their data."""


def on_a_ball() -> zoo.Encoder:
    return encoder("mlp", posterior={"use": "wrapped-normal"})


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{component}: {name}")
        for component, by_name in CASES.items()
        for name, case in by_name.items()
    ],
)
def test_samples_follow_the_density(case):
    case()


def test_every_sampler_is_tested():
    """A new component must be added to one of the two tables."""
    kinds = ("posterior", "prior", "likelihood")
    registered = {f"{kind}/{name}" for kind in kinds for name in zoo.list_components(kind)}
    assert registered <= {*CASES, *NO_SAMPLER, *ELSEWHERE}
    assert not {*CASES} & {*NO_SAMPLER}


@pytest.mark.parametrize("component", NO_SAMPLER)
def test_components_without_a_density_raise_an_error(component):
    kind, name = component.split("/")
    if kind == "posterior":
        q = posterior(name)
        with pytest.raises(zoo.ComponentError, match="no density"):
            q.log_prob(q.sample())
    else:
        p = zoo.ComponentFactory(kind, name)(data_shape=(1, 8, 8))(torch.zeros(1, 1, 8, 8, 1))
        assert not p.normalized
        with pytest.raises(NotImplementedError):
            p.sample()


@pytest.mark.parametrize(("sharpness", "variance"), [(10.0, 2.0077), (100.0, 2.0001)])
def test_the_variance_of_log_cosh(sharpness, variance):
    """psi'(1/2a) / 2a^2. Gamma variables that underflow gave 1.78 and 0.04."""
    p = likelihood("log-cosh", 0.0, sharpness=sharpness)
    assert p.variance.item() == pytest.approx(variance, abs=1e-4)
    torch.manual_seed(0)
    assert p.sample(torch.Size([400_000])).var().item() == pytest.approx(variance, rel=0.02)
