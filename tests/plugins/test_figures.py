"""Figures, compared by the pixels, positions and numbers drawn in them."""

from __future__ import annotations

import json
from typing import ClassVar

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal, Uniform, constraints

import zoo
from toys import GivenPosterior, GivenPrior
from zoo.cli.main import main
from zoo.model.context import seeded
from zoo_figures import figures
from zoo_figures.latents import rates

SHAPE = (1, 5, 4)  # not square, so that swapped rows and columns are detected


@pytest.fixture
def vae() -> zoo.VAE:
    return untrained(12)


def untrained(latent_dim: int, shape: tuple[int, int, int] = SHAPE, prior: Distribution | None = None) -> zoo.VAE:
    """A model whose images differ much from point to point."""
    torch.manual_seed(0)
    vae = zoo.create_model("mlp-vae", latent_dim=latent_dim, data_shape=shape)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(3)
    if prior is not None:
        return zoo.VAE(vae.encoder, vae.decoder, GivenPrior(prior)).eval()
    return vae


def images(n: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


def tile(axes, row: int, column: int, gap: int = 1, size: tuple[int, int] = SHAPE[1:]) -> np.ndarray:
    """The image in a grid, (H, W, 3)."""
    height, width = size
    top, left = gap + row * (height + gap), gap + column * (width + gap)
    return np.asarray(axes.images[0].get_array())[top : top + height, left : left + width]


def assert_shows(drawn: np.ndarray, image: Tensor) -> None:
    np.testing.assert_allclose(drawn, image.expand(3, -1, -1).permute(1, 2, 0).numpy(), atol=1e-6)


def mean_image(vae: zoo.VAE, z: Tensor) -> Tensor:
    with torch.no_grad():
        return vae.decode(z).mean


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def numbers(labels) -> list[float]:
    return [float(text.replace("−", "-")) for text in texts(labels)]


# Traversals


def test_a_traversal_decodes_the_point_with_one_dimension_replaced(vae):
    z = torch.randn(12, generator=torch.Generator().manual_seed(2))
    axes = figures.traversals(vae, z, [7, 0, 11], steps=5, reach=2.0).axes[0]
    assert numbers(axes.get_xticklabels()) == [-2, -1, 0, 1, 2]
    assert texts(axes.get_yticklabels()) == ["z[7]", "z[0]", "z[11]"]
    for row, dim in enumerate([7, 0, 11]):
        for column, value in enumerate([-2.0, -1.0, 0.0, 1.0, 2.0]):
            point = z.clone()
            point[dim] = value
            assert_shows(tile(axes, row, column), mean_image(vae, point))
            assert axes.get_yticks()[row] == 1 + 2 + 6 * row
            assert axes.get_xticks()[column] == 1 + 1.5 + 5 * column
    # The mark of each row is at the point itself, if it is within reach.
    marks = {round(float(line.get_ydata()[0]), 3): float(line.get_xdata()[0]) for line in axes.lines}
    expected = {float(6 * row): 2.5 + 5 * (z[dim].item() + 2) for row, dim in enumerate([7, 0, 11]) if abs(z[dim]) <= 2}
    assert marks == pytest.approx(expected, abs=1e-4)


def test_a_traversal_starts_at_the_origin_and_sorts_dimensions_by_rate(vae):
    batch = zoo.Batch(images(30))
    axes = figures.traversals(vae, images=batch, steps=3).axes[0]
    q = vae.encode(batch.x).base_dist
    nats = ((q.mean**2 + q.stddev**2 - 1) / 2 - q.stddev.log()).mean(0)
    order = nats.argsort(descending=True)[:10].tolist()
    assert texts(axes.get_yticklabels()) == [f"z[{dim}]  {nats[dim]:.2f}" for dim in order]
    assert "rate in nats" in axes.get_title()
    for row, dim in enumerate(order):
        assert_shows(tile(axes, row, 2), mean_image(vae, 3.0 * torch.eye(12)[dim]))
        assert_shows(tile(axes, row, 1), mean_image(vae, torch.zeros(12)))
    unranked = figures.traversals(vae, steps=2).axes[0]
    assert texts(unranked.get_yticklabels()) == [f"z[{dim}]" for dim in range(10)]


def test_a_traversal_outside_the_prior_or_without_a_vector_is_refused(vae):
    for dims in ([12], [0, -1]):
        with pytest.raises(zoo.UsageError, match=rf"no latent dimension {dims[-1]}: expected 0 to 11"):
            figures.traversals(vae, dims=dims)
    cube = untrained(2, prior=Independent(Uniform(-torch.ones(2), torch.ones(2)), 1))
    with pytest.raises(zoo.UsageError, match="points from -3 to 3 are outside the support"):
        figures.traversals(cube)
    figures.traversals(cube, reach=0.99)
    field = untrained(2, prior=Independent(Normal(torch.zeros(4, 2, 2), 1.0), 3))
    with pytest.raises(zoo.UsageError, match=r"needs a vector as latent; this model has shape \(4, 2, 2\)"):
        figures.traversals(field)


# The manifold


def test_the_manifold_decodes_the_quantiles_of_the_prior_with_the_second_dimension_upwards():
    vae = untrained(2)
    axes = figures.manifold(vae, steps=6).axes[0]
    at = norm.ppf((np.arange(6) + 0.5) / 6)
    assert (at[0], at[-1]) == pytest.approx((-1.382994, 1.382994), abs=1e-6)
    for row in range(6):
        for column in range(6):
            assert_shows(tile(axes, row, column), mean_image(vae, torch.tensor([at[column], at[5 - row]]).float()))
    assert numbers(axes.get_xticklabels()) == pytest.approx(at, abs=0.006)
    assert numbers(axes.get_yticklabels()) == pytest.approx(at, abs=0.006)
    assert list(axes.get_yticks()) == [3 + 6 * row for row in range(5, -1, -1)], "the lowest z[1] is at the bottom"


def test_a_prior_without_quantiles_is_drawn_by_its_moments():
    """Two narrow Gaussians, at (-1, 0) and (3, 0), of weight one half: mean 1, variance 4 + s^2 in z[0]."""
    two = Independent(Normal(torch.tensor([[-1.0, 0.0], [3.0, 0.0]]), 0.5), 1)
    vae = untrained(2, prior=MixtureSameFamily(Categorical(torch.ones(2)), two))
    axes = figures.manifold(vae, steps=2).axes[0]
    far = norm.ppf(0.75)
    across, up = 1 + 4.25**0.5 * far, 0.5 * far
    assert_shows(tile(axes, 0, 1), mean_image(vae, torch.tensor([across, up]).float()))
    assert_shows(tile(axes, 1, 0), mean_image(vae, torch.tensor([2 - across, -up]).float()))


class Shapeless(Distribution):
    """A prior with only a shape."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self) -> None:
        super().__init__(event_shape=torch.Size([2]), validate_args=False)


def test_a_manifold_needs_two_dimensions_and_quantiles_or_moments(vae):
    with pytest.raises(zoo.UsageError, match=r"latent of shape \(2,\); this model has \(12,\)"):
        figures.manifold(vae)
    with pytest.raises(zoo.UsageError, match="neither quantiles nor moments"):
        figures.manifold(untrained(2, prior=Shapeless()))


# Interpolation


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_an_interpolation_goes_from_one_reconstruction_to_the_other(vae, path):
    x = images(2)
    left, middle, right = figures.interpolation(vae, x, steps=5, path=path, names=("one", "two")).axes
    assert_shows(np.asarray(left.images[0].get_array()), x[0])
    assert_shows(np.asarray(right.images[0].get_array()), x[1])
    assert (texts(left.get_xticklabels()), texts(right.get_xticklabels())) == (["one"], ["two"])
    with torch.no_grad():
        a, b = vae.posterior_mean(x)
        ends = vae.reconstruct(x)
    assert_shows(tile(middle, 0, 0), ends[0])
    assert_shows(tile(middle, 0, 4), ends[1])
    assert numbers(middle.get_xticklabels()) == [0, 0.25, 0.5, 0.75, 1]
    if path == "linear":
        halfway = (a + b) / 2
    else:  # sin(angle / 2) / sin(angle) of each
        halfway = (a + b) / (2 * torch.cos(torch.acos(torch.cosine_similarity(a, b, dim=0)) / 2))
    assert_shows(tile(middle, 0, 2), mean_image(vae, halfway))


class OnTheCircle(Normal):
    """A Gaussian whose support is the unit circle."""

    class Circle(constraints.Constraint):
        event_dim = 1

        def check(self, value):
            return (value.norm(dim=-1) - 1).abs() < 1e-5

    support = Circle()


def on_the_circle(codes: Tensor) -> tuple[zoo.VAE, Tensor]:
    """A model whose posterior mean is the first two pixels of an image."""
    vae = untrained(2)
    vae.encoder = GivenPosterior(lambda x: Independent(Normal(x.flatten(1)[:, :2], 1.0), 1))
    x = torch.zeros(2, *SHAPE)
    x.view(2, -1)[:, :2] = codes
    vae.prior = GivenPrior(OnTheCircle(torch.zeros(2), 1.0, validate_args=False))
    return vae, x


def test_a_straight_line_leaves_a_sphere_and_an_arc_does_not():
    vae, x = on_the_circle(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(zoo.UsageError, match="linear path .* leaves the prior's support. Choose the spherical"):
        figures.interpolation(vae, x)
    middle = figures.interpolation(vae, x, path="spherical", steps=4).axes[1]
    assert_shows(tile(middle, 0, 1), mean_image(vae, torch.tensor([3**0.5 / 2, 0.5])))  # 30 degrees
    vae, x = on_the_circle(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    with pytest.raises(zoo.UsageError, match="opposite directions"):
        figures.interpolation(vae, x, path="spherical")


def test_an_arc_from_the_origin_or_in_one_direction_is_a_line():
    for codes in ([[0.0, 0.0], [0.0, 1.0]], [[0.2, 0.2], [0.6, 0.6]]):
        vae, x = on_the_circle(torch.tensor(codes))
        middle = figures.interpolation(vae, x, path="spherical", steps=3).axes[1]
        assert_shows(tile(middle, 0, 1), mean_image(vae, torch.tensor(codes).mean(0)))


class Meanless(Normal):
    @property
    def mean(self):
        raise NotImplementedError


def test_random_posterior_means_are_those_of_the_reconstructions():
    vae = untrained(2)
    vae.encoder = GivenPosterior(lambda x: Independent(Meanless(x.flatten(1)[:, :2], 1.0), 1))
    x = images(2)
    middle = figures.interpolation(vae, x, steps=3).axes[1]
    with seeded(0), torch.no_grad():
        drawn = vae.reconstruct(x)
    assert not torch.allclose(drawn, mean_image(vae, x.flatten(1)[:, :2]), atol=0.01)
    shown = figures.reconstructions(vae, x).axes[0]
    for column in (0, 1):
        assert_shows(tile(middle, 0, 2 * column), drawn[column])
        assert_shows(tile(shown, 1, column), drawn[column])
        assert_shows(tile(shown, 0, column), x[column])


class Labelled(zoo.Decoder):
    """Grey images: the first latent, to which the label is added in tenths."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Distribution:
        assert condition is not None
        grey = (z[..., :1] / 10 + condition.unsqueeze(-1) / 10)[..., None, None]
        return Independent(Normal(grey.expand(*z.shape[:-1], *SHAPE), 1.0), 3)


def test_labels_reach_a_conditional_model():
    vae = untrained(2)
    vae.decoder, x, labels = Labelled(), images(2), torch.tensor([3, 8])
    vae.encoder = GivenPosterior(lambda x: Independent(Normal(torch.zeros(len(x), 2), 1.0), 1))
    vae.anything = torch.nn.Parameter(torch.zeros(()))
    middle = figures.interpolation(vae, x, steps=5, condition=labels).axes[1]
    greys = [tile(middle, 0, column)[0, 0, 0] for column in range(5)]
    assert greys == pytest.approx([0.3, 0.3, 0.3, 0.8, 0.8]), "each with the label of the nearer end"
    axes = figures.traversals(vae, dims=[0], reach=1.0, steps=3, condition=labels[:1]).axes[0]
    assert [tile(axes, 0, column)[0, 0, 0] for column in range(3)] == pytest.approx([0.2, 0.3, 0.4])
    axes = figures.manifold(vae, steps=1, condition=labels[1:]).axes[0]
    assert np.asarray(axes.images[0].get_array())[2, 2, 0] == pytest.approx(0.8)
    axes = figures.reconstructions(vae, x, condition=labels).axes[0]
    assert [tile(axes, 1, column)[0, 0, 0] for column in range(2)] == pytest.approx([0.3, 0.8])


# The latent space


def test_a_latent_space_of_two_dimensions_is_a_scatter_plot():
    vae, x = untrained(2), images(40)
    labels = torch.arange(40) % 3 * 2  # 0, 2 and 4
    scatter, bars = figures.latent_space(vae, x, labels, threshold=0.5).axes
    with torch.no_grad():
        codes = vae.posterior_mean(x)
    (points,) = scatter.collections
    np.testing.assert_allclose(points.get_offsets(), codes, rtol=1e-6)
    legend = dict(zip(texts(scatter.get_legend().get_texts()), scatter.get_legend().get_patches(), strict=True))
    assert list(legend) == ["0", "2", "4"]
    for place, label in enumerate(labels.tolist()):
        assert to_hex(points.get_facecolors()[place]) == to_hex(legend[str(label)].get_facecolor())
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == ("z[0]", "z[1]")
    found = rates(vae, zoo.Batch(x)).values
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(sorted(found.tolist(), reverse=True))
    assert texts(bars.get_xticklabels()) == [str(dim) for dim in found.argsort(descending=True).tolist()]
    assert bars.get_title() == f"{(found > 0.5).sum()} of 2 dimensions above 0.5 nats; {found.sum():.2f} nats in total"
    assert bars.lines[0].get_ydata()[0] == 0.5


def test_more_dimensions_are_drawn_by_their_principal_components(vae):
    """Against a singular value decomposition: components are fixed up to their sign."""
    x = images(50)
    scatter, bars = figures.latent_space(vae, x).axes
    with torch.no_grad():
        codes = vae.posterior_mean(x).double().numpy()
    centred = codes - codes.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    expected, drawn = centred @ directions[:2].T, np.asarray(scatter.collections[0].get_offsets())
    signs = np.sign((expected * drawn).sum(0))
    np.testing.assert_allclose(drawn * signs, expected, atol=1e-5)
    for i, label in enumerate((scatter.get_xlabel(), scatter.get_ylabel())):
        assert label == f"principal component {i + 1}, {values[i] ** 2 / (values**2).sum():.0%} of the variance"
    assert scatter.get_legend() is None, "there are no labels"
    assert len(bars.patches) == 12


def test_a_latent_of_one_dimension_is_a_histogram_by_label():
    vae, x = untrained(1), images(40)
    histogram, _ = figures.latent_space(vae, x, torch.arange(40) % 2).axes
    assert sum(bar.get_height() for bar in histogram.patches if bar.get_y() == 0) <= 40
    assert max(bar.get_y() + bar.get_height() for bar in histogram.patches) <= 40
    counted = sum(bar.get_height() for bar in histogram.patches)
    assert counted == 40, "each image once, the labels above each other"


def test_without_rates_the_scatter_plot_states_the_reason():
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(torch.zeros(2, 3), 1.0), 1))
    figure = figures.latent_space(untrained(3, prior=mixture), images(9))
    assert len(figure.axes) == 1
    assert "the prior does not factorise" in figure.get_supxlabel()


def test_a_latent_space_of_many_labels_many_dimensions_or_no_variance():
    x = images(60)
    axes = figures.latent_space(untrained(30), x, torch.arange(60)).axes
    assert "label" in [each.get_ylabel() for each in axes], "a scale of colours in place of a legend"
    (steps,) = axes[-1].patches
    assert steps.get_data().values.sum() == pytest.approx(rates(untrained(30), zoo.Batch(x)).values.sum().item())
    still = figures.latent_space(untrained(3), x[:1].expand(4, -1, -1, -1)).axes[0]
    assert "0% of the variance" in still.get_xlabel()
    with pytest.raises(zoo.UsageError, match="at least two images"):
        figures.latent_space(untrained(3), x[:1])


# All of them


def test_drawing_does_not_change_the_model_and_the_generators(vae):
    vae.train()
    torch.manual_seed(5)
    before, weights = torch.get_rng_state(), {name: value.clone() for name, value in vae.state_dict().items()}
    figures.samples(vae, 3)
    figures.traversals(vae, images=zoo.Batch(images(4)))
    figures.interpolation(vae, images(2))
    figures.latent_space(vae, images(4))
    assert vae.training
    assert vae.encoder.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in vae.state_dict().items())


def test_colour_is_drawn_as_colour_and_other_channels_as_their_mean():
    x = images(2, (3, 5, 4))
    axes = figures.reconstructions(untrained(2, (3, 5, 4)), x).axes[0]
    np.testing.assert_allclose(tile(axes, 0, 1), x[1].permute(1, 2, 0), atol=1e-6)
    x = images(2, (2, 5, 4))
    axes = figures.reconstructions(untrained(2, (2, 5, 4)), x).axes[0]
    assert_shows(tile(axes, 0, 1), x[1].mean(0, keepdim=True))


# The commands


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_each_command_writes_what_its_function_draws(digits_run, tmp_path, capsys):
    run = zoo.Run.open(digits_run)
    vae, test, name = run.load(), run.test_batch(), "mlp-vae-2d on digits"
    with torch.no_grad():
        z = vae.posterior_mean(test.x[5:6])[0]
    two, of = test.x[[1, 4]], figures
    expected = {
        "traverse.png": (
            ["--image", 5, "--steps", 4, "--range", 2],
            of.traversals(
                vae, z, images=test, steps=4, reach=2.0, title=f"{name}: latent traversals around test image 5"
            ),
        ),
        "manifold.png": ([], of.manifold(vae, title=f"{name}: the latent space, decoded")),
        "interpolate.png": (
            [1, 4, "--path", "spherical"],
            of.interpolation(
                vae, two, path="spherical", names=("image 1", "image 4"), title=f"{name}: from test image 1 to 4"
            ),
        ),
        "latent.png": (
            ["-n", 100],
            of.latent_space(vae, test.x[:100], test.condition[:100], title=f"{name}: the latent space of test images"),
        ),
        "reconstructions.png": (["-n", 13], of.reconstructions(vae, test.x[:13], f"{name}: test images")),
        "samples.png": (
            ["-n", 5, "--seed", 2],
            of.samples(vae, 5, f"{name}: means of p(x | z) at samples from the prior", seed=2),
        ),
    }
    for file, (arguments, figure) in expected.items():
        verbs = {"manifold.png": "traverse", "reconstructions.png": "reconstruct", "samples.png": "sample"}
        verb = verbs.get(file, file.removesuffix(".png"))
        assert command(verb, digits_run, *arguments, "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"run": str(run.path), "figure": str(run.figures / file)}
        drawn = of.save(figure, tmp_path / file).read_bytes()
        assert (run.figures / file).read_bytes() == drawn, file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["interpolate", "RUN", 0, 359], "There is no test image 359: expected 0 to 358."),
        (["interpolate", "RUN", 0], "Missing argument 'B'"),
        (["interpolate", "RUN", "--", 0, -1], "Invalid value for 'B'"),
        (["interpolate", "RUN", 0, 1, "--path", "round"], "'round' is not one of 'linear', 'spherical'"),
        (["traverse", "RUN", "--image", 4000], "There is no test image 4000: expected 0 to 358."),
        (["traverse", "RUN", "--dims", "0,2"], "There is no latent dimension 2: expected 0 to 1."),
        (["traverse", "RUN", "--dims", "0;2"], "'0;2' is not a list of integers such as 0,3,5."),
        (["traverse", "RUN", "--dims", "0", "--range", "nan"], "outside the support"),
        (["traverse", "RUN", "--steps", 1], "Invalid value for '--steps'"),
        (["latent", "RUN", "-n", 1], "Invalid value for '-n'"),
        (["latent", "nowhere"], "nowhere is not a directory"),
    ],
)
def test_bad_input_gets_one_clear_message(digits_run, tmp_path, capsys, arguments, message):
    given = [digits_run if argument == "RUN" else argument for argument in arguments]
    out = tmp_path / "figure.png"
    assert command(given[0], "--out", out, *given[1:]) == 2
    said = capsys.readouterr()
    assert message in " ".join(said.err.split())
    assert said.out == ""
    assert not out.exists()


def test_training_leaves_a_manifold_of_two_dimensions(digits_run, tmp_path):
    run = zoo.Run.open(digits_run)
    title = "mlp-vae-2d on digits: the latent space, decoded"
    drawn = figures.save(figures.manifold(run.load(), title=title), tmp_path / "manifold.png")
    assert (run.figures / "manifold.png").read_bytes() == drawn.read_bytes()


def test_a_test_image_does_not_depend_on_their_number(tmp_path):
    """Also with dynamic binarisation; its label stays with it."""
    small = ["encoder.hidden=[4]", "decoder.hidden=[4]", "binarize=dynamic", "data=digits", "train.epochs=1"]
    run = zoo.train("mlp-vae", small, out=tmp_path)
    few, all_of_them = run.test_batch(7), run.test_batch()
    assert torch.equal(few.x, all_of_them.x[:7])
    assert torch.equal(few.condition, all_of_them.condition[:7])
    assert set(all_of_them.x.unique().tolist()) == {0.0, 1.0}
    assert len(run.test_batch(10_000).x) == len(all_of_them.x) == 359


# Halves and single terms, as reports take them


def test_each_panel_of_the_latent_space_can_be_drawn_alone(vae):
    x, condition = images(30), torch.arange(30) % 3
    codes, bars = figures.latent_space(vae, x, condition).axes
    (alone,) = figures.latent_space(vae, x, condition, panels=["codes"]).axes
    places, whole = (np.asarray(axes.collections[0].get_offsets()) for axes in (alone, codes))
    np.testing.assert_array_equal(places, whole)
    (alone,) = figures.latent_space(vae, x, condition, panels=["rates"]).axes
    assert [bar.get_height() for bar in alone.patches] == [bar.get_height() for bar in bars.patches]
    assert len(bars.patches) == 12
    vae.prior = GivenPrior(
        MixtureSameFamily(Categorical(torch.ones(1)), Independent(Normal(torch.zeros(1, 12), 1.0), 1))
    )
    with pytest.raises(zoo.UsageError, match="the prior does not factorise"):
        figures.latent_space(vae, x, panels=["rates"])


def test_a_term_has_the_same_curve_alone_and_in_the_whole_figure():
    terms = {"loss": 3.0, "rate": 1.0}
    epochs = [zoo.Epoch(n, 2 * n, 0.1, terms, terms, {name: [2.0, 5.0 + n] for name in terms}) for n in (1, 2)]
    (alone,) = figures.curves(epochs, terms=["rate"]).axes
    whole = figures.curves(epochs).axes[1]
    assert alone.get_title() == whole.get_title() == "rate"
    assert [line.get_xydata().tolist() for line in alone.lines] == [line.get_xydata().tolist() for line in whole.lines]


@pytest.mark.parametrize(("count", "channels", "columns", "gap"), [(5, 1, 3, 2), (2, 3, 8, 1), (6, 3, 3, 0)])
def test_the_grid_equals_that_of_torchvision(count, channels, columns, gap):
    from torchvision.utils import make_grid

    from zoo_canvas import grid

    x = 1.5 * torch.rand(count, channels, 5, 4, generator=torch.Generator().manual_seed(0)) - 0.2
    theirs = make_grid(x.clamp(0, 1), nrow=columns, padding=gap, pad_value=0.7).permute(1, 2, 0)
    torch.testing.assert_close(grid(x, columns, gap, 0.7), theirs, rtol=0, atol=0)


def test_a_preview_of_a_data_set(zoo_command, tmp_path):
    done = zoo_command("preview", "digits", "--out", tmp_path / "digits.png", "--json")
    assert json.loads(done.stdout) == {"data": "digits", "figure": str(tmp_path / "digits.png")}
    assert (tmp_path / "digits.png").read_bytes()[:4] == b"\x89PNG"
    assert "cannot be written" in zoo_command("preview", "digits", "--out", tmp_path / "no" / "a.png", code=2).stderr


def test_samples_of_vectors_are_written_as_an_array(tmp_path):
    """Of the conditional model too; vectors have no figure."""
    counts = np.random.default_rng(0).poisson(3.0, (60, 5)).astype(np.float32)
    data = counts, np.arange(60) % 2
    run = zoo.train("count-vae", ["decoder.batch=true"], data=data, out=tmp_path, epochs=1, progress=False)
    for arguments in (["--out", str(tmp_path / "s.npy")], []):
        with pytest.raises(SystemExit) as stop:
            main(["sample", str(run.path), "-n", "30", "--label", "1", *arguments])
        assert not stop.value.code
    samples = np.load(tmp_path / "s.npy")
    assert samples.shape == (30, 5)
    assert (samples == samples.round()).all()
    assert np.array_equal(np.load(run.path / "samples.npy"), samples)
