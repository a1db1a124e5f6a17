"""From one image to another through the latent space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from zoo import VAE, UsageError, evaluating, in_support, seeded
from zoo_canvas import blank, centres, gap_of, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Path = Literal["linear", "spherical"]


@torch.no_grad()
def interpolation(
    vae: VAE,
    x: Tensor,
    *,
    steps: int = 10,
    path: Path = "linear",
    condition: Tensor | None = None,
    names: tuple[str, str] = ("A", "B"),
    title: str = "Interpolation",
) -> Figure:
    """Two images, and between them the mean images along a path from the code of one to the code of the other.

    The ends of the path are the reconstructions of the two (see `VAE.posterior_mean`).

    Args:
        vae: the model.
        x: the two images, (2, C, H, W).
        steps: images along the path, both ends among them.
        path: ``linear`` is the straight line; ``spherical`` goes round the origin, so that a path between typical draws
            of a high-dimensional Gaussian stays where such draws lie (arXiv 1609.04468, section 2.1).
        condition: their labels (2,), for conditional models; each point is decoded with that of the nearer end.
        names: of the two, under them.
        title: above the figure.

    Raises:
        UsageError: the path leaves the prior's support, or it leads through the origin and cannot be spherical.
    """
    t = torch.linspace(0, 1, steps, device=x.device)
    labels = None if condition is None else condition[(t > 0.5).long()]
    with evaluating(vae), seeded(0, x.device):
        ends = vae.posterior_mean(x, condition)
        z = PATHS[path](ends[0], ends[1], t.view(-1, *[1] * (ends.ndim - 1)))
        if in_support(vae.prior(vae.encoder, condition), ends) and not in_support(vae.prior(vae.encoder, labels), z):
            raise UsageError(
                f"The {path} path between the two leaves the prior's support. "
                f"Choose the {'spherical' if path == 'linear' else 'linear'} one."
            )
        decoded = vae.decode(z, labels).mean

    gap, width = gap_of(x), x.shape[-1]
    figure = blank(0.75 * (steps + 2) + 0.4, 1.55)
    left, middle, right = figure.subplots(1, 3, width_ratios=[width, steps * (width + gap) + gap, width])
    for axes, image, name in ((left, x[:1], names[0]), (right, x[1:], names[1])):
        show(axes, image, 1)
        axes.set_xticks(centres(1, width, gap=0), [name], fontsize=9)
    show(middle, decoded, steps)
    middle.set_xticks(centres(steps, width, gap), [f"{share:.2g}" for share in t.tolist()], fontsize=9)
    middle.set_xlabel(f"share of the way, {path}, decoded", fontsize=9)
    figure.suptitle(title)
    return figure


def _linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(a, b, t)


def _spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    lengths = a.norm() * b.norm()
    cosine = (a * b).sum() / lengths
    if lengths == 0 or cosine > 1 - 1e-6:  # one of them is the origin, or they lie in one direction
        return _linear(a, b, t)
    if cosine < -1 + 1e-6:
        raise UsageError(
            "The two lie in opposite directions, so that no spherical path is nearest. Choose the linear one."
        )
    angle = torch.acos(cosine)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


PATHS: dict[Path, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": _linear, "spherical": _spherical}
