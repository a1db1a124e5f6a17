"""Interpolation between two images in the latent space."""

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
    """Draw two images and, between them, the decoded means along a path between their posterior means.

    The ends of the path are the reconstructions of the two images (see `VAE.posterior_mean`).

    Args:
        vae: the model.
        x: the two images, (2, C, H, W).
        steps: number of images along the path, including both ends.
        path: ``linear`` for a straight line; ``spherical`` for an arc around the origin, which stays in the typical set
            of a high-dimensional Gaussian (arXiv 1609.04468, section 2.1).
        condition: labels (2,), for conditional models; each point is decoded with the label of the nearer end.
        names: of the two images.
        title: of the figure.

    Raises:
        UsageError: the path leaves the prior's support, or a spherical path is not unique.
    """
    t = torch.linspace(0, 1, steps, device=x.device)
    labels = None if condition is None else condition[(t > 0.5).long()]
    with evaluating(vae), seeded(0, x.device):
        ends = vae.posterior_mean(x, condition)
        z = PATHS[path](ends[0], ends[1], t.view(-1, *[1] * (ends.ndim - 1)))
        if in_support(vae.prior(vae.encoder, condition), ends) and not in_support(vae.prior(vae.encoder, labels), z):
            raise UsageError(
                f"The {path} path between the images leaves the prior's support. "
                f"Choose the {'spherical' if path == 'linear' else 'linear'} path."
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
    middle.set_xlabel(f"position along the {path} path", fontsize=9)
    figure.suptitle(title)
    return figure


def _linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    return torch.lerp(a, b, t)


def _spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    lengths = a.norm() * b.norm()
    cosine = (a * b).sum() / lengths
    if lengths == 0 or cosine > 1 - 1e-6:  # one of them is the origin, or both have the same direction
        return _linear(a, b, t)
    if cosine < -1 + 1e-6:
        raise UsageError(
            "The images have opposite directions in latent space, so no spherical path is shortest. "
            "Choose the linear path."
        )
    angle = torch.acos(cosine)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


PATHS: dict[Path, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": _linear, "spherical": _spherical}
