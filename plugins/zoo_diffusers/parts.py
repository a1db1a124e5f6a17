"""The encoder and the decoder of a folder of `diffusers.AutoencoderKL`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from zoo import ComponentError, ComponentFactory, DataDependent, Likelihood, UsageError, image_shape
from zoo_diffusers.names import decoder_tensors, encoder_tensors, is_mean
from zoo_diffusers.stored import CONFIG, Folder, StoredAutoencoder, read
from zoo_images.spatial import SpatialDecoder, SpatialEncoder


class FromFolder(DataDependent):
    """A part of a model whose initial weights are in a folder.

    Without the folder, as when a run is loaded elsewhere, the weights are random until those of the run are loaded.
    """

    def _load(self, stored: StoredAutoencoder, targets: Mapping[str, Tensor]) -> None:
        self._stored = stored
        self._loaded = stored.load_into(targets)

    def initialize(self, mean: Tensor) -> None:
        """Refuse to start a training without the weights.

        Raises:
            UsageError: the folder does not have the weights of the recipe.
        """
        if not self._loaded:
            raise UsageError(
                f"The training starts from {self._stored.file} with SHA-256 {self._stored.sha256[:16]}..., which is "
                "missing or was changed. Restore the file, or set `folder` to the folder to start from."
            )


class DiffusersEncoder(FromFolder, SpatialEncoder):
    """q(z | x) of a folder that `diffusers.AutoencoderKL.save_pretrained` or ``zoo export --format diffusers`` wrote,
    as a Gaussian over latents (h, w, latent_dim).

    The folder is read when the recipe is checked and when the model is built. The recipe of a run has the
    configuration, so loading the run does not need the folder.

    Args:
        data_shape: (C, H, W), with C equal to ``in_channels`` of the configuration.
        latent_dim: equal to ``latent_channels``.
        folder: its path.

    Raises:
        ComponentError: the configuration is of other images or latents, or does not match the weights.
    """

    def __init__(self, data_shape: tuple[int, ...], latent_dim: int, folder: Folder) -> None:
        stored = read(folder)
        if latent_dim != stored.latent_channels:
            raise ComponentError(
                f"latent_dim is {latent_dim}, and latent_channels in {stored.path}/{CONFIG} is "
                f"{stored.latent_channels}. Set latent_dim={stored.latent_channels}."
            )
        _require_channels(stored, data_shape, "encoder 'diffusers'")
        super().__init__(
            data_shape,
            latent_dim,
            channels=stored.block_out_channels,
            blocks=stored.layers_per_block,
            groups=stored.norm_num_groups,
            attention=stored.mid_block_add_attention,
        )
        self._load(stored, encoder_tensors(self))


class DiffusersDecoder(FromFolder, SpatialDecoder):
    """p(x | z) of a folder of `diffusers.AutoencoderKL`, whose network computes the mean of x; see `DiffusersEncoder`.

    Args:
        data_shape: (C, H, W), with C equal to ``in_channels`` of the configuration.
        latent_shape: (h, w, latent_channels).
        folder: its path.
        likelihood: the head, with one parameter per entry, the mean.

    Raises:
        ComponentError: the configuration is of other images or latents, or does not match the weights; or the
            likelihood has other parameters.
    """

    def __init__(
        self,
        data_shape: tuple[int, ...],
        latent_shape: tuple[int, ...],
        folder: Folder,
        likelihood: Callable[..., Likelihood] = ComponentFactory("likelihood", "gaussian", scale="optimal"),
    ) -> None:
        stored = read(folder)
        _require_channels(stored, data_shape, "decoder 'diffusers'")
        super().__init__(
            data_shape,
            latent_shape,
            channels=stored.block_out_channels[::-1],
            blocks=stored.layers_per_block + 1,
            groups=stored.norm_num_groups,
            attention=stored.mid_block_add_attention,
            likelihood=likelihood,
        )
        if not is_mean(self):
            raise ComponentError(
                "decoder 'diffusers' computes the mean of x: its likelihood needs one parameter per entry, the mean, "
                f"such as gaussian; got {type(self.likelihood).__name__}."
            )
        self._load(stored, decoder_tensors(self))


def _require_channels(stored: StoredAutoencoder, data_shape: tuple[int, ...], part: str) -> None:
    channels = image_shape(data_shape, part)[0]
    if channels != stored.in_channels:
        raise ComponentError(
            f"{part} is for images with {stored.in_channels} channels, in_channels in {stored.path}/{CONFIG}; these "
            f"have {channels}."
        )
