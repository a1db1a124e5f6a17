"""The learned perceptual distance LPIPS (arXiv 1801.03924)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu

from zoo import DataError

STAGES = (("0", "2"), ("5", "7"), ("10", "12", "14"), ("17", "19", "21"), ("24", "26", "28"))
"""The convolutions of VGG16 by stage, as torchvision numbers them in ``features``. Pooling joins the stages; features
are taken after the last ReLU of a stage."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPSILON = 1e-8
MIN_SIDE = 2 ** (len(STAGES) - 1)
"""The smallest side of an image, of which the last stage sees one pixel."""


class LPIPS(nn.Module):
    """The distance between features of VGG16, unit-normalised and weighted by channel (arXiv 1801.03924, eq. 1).

    d(x, x0) = sum_l 1 / (H_l W_l) sum_hw sum_c w_lc (y_lhwc - y0_lhwc)^2

    As in the authors' code, the weights multiply squares; the paper has them inside. All weights are buffers that are
    not saved with the module: they have no gradient, and a checkpoint does not repeat them.

    Args:
        vgg: weights of torchvision's VGG16; those of ``features`` are used.
        linear: linear weights w_l, as in the file of the authors.

    Raises:
        DataError: a tensor is missing, or has another shape than in VGG16.
    """

    means: Tensor
    stds: Tensor

    def __init__(self, vgg: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        super().__init__()
        try:
            for layer in (layer for stage in STAGES for layer in stage):
                self._keep(f"weight_{layer}", vgg[f"features.{layer}.weight"])
                self._keep(f"bias_{layer}", vgg[f"features.{layer}.bias"])
            for index, stage in enumerate(STAGES):
                weight = linear[f"lin{index}.model.1.weight"]
                self._keep(f"linear_{index}", weight.reshape(1, len(self.get_buffer(f"bias_{stage[-1]}")), 1, 1))
        except (KeyError, RuntimeError) as error:
            raise DataError(f"The weights are not those of LPIPS with VGG16: {error}") from error
        self._keep("means", torch.tensor(MEAN).view(-1, 1, 1))
        self._keep("stds", torch.tensor(STD).view(-1, 1, 1))

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.detach().clone(), persistent=False)

    def features(self, x: Tensor) -> list[Tensor]:
        """The unit-normalised features of images (N, C, H, W) in [0, 1]: (N, C_l, H_l, W_l) for each stage."""
        x = (x.to(self.means.dtype).expand(-1, 3, -1, -1) - self.means) / self.stds
        features = []
        for index, stage in enumerate(STAGES):
            x = max_pool2d(x, 2) if index else x
            for layer in stage:
                x = relu(conv2d(x, self.get_buffer(f"weight_{layer}"), self.get_buffer(f"bias_{layer}"), padding=1))
            # Without the constant, the gradient at a pixel without features is not finite.
            features.append(x / (x.square().sum(1, keepdim=True) + EPSILON).sqrt())
        return features

    def forward(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        """The distances (N,) between images (N, C, H, W) in [0, 1], with C 1 or 3. Only the first has a gradient."""
        with torch.no_grad():
            targets = self.features(x)
        distances = [
            (self.get_buffer(f"linear_{index}") * (y - y0).square()).sum(1).mean((-2, -1))
            for index, (y, y0) in enumerate(zip(self.features(reconstruction), targets, strict=True))
        ]
        return torch.stack(distances).sum(0)


def too_small(shape: tuple[int, int, int]) -> str:
    """The reason why LPIPS does not apply to images of a shape (C, H, W); empty if it does."""
    if shape[0] in (1, 3) and min(shape[1:]) >= MIN_SIDE:
        return ""
    return f"LPIPS needs images with 1 or 3 channels and at least {MIN_SIDE} pixels per side; these have shape {shape}"
