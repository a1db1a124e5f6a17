"""Export of latents and of models for use outside the zoo."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Command, hookimpl


@hookimpl
def zoo_commands() -> Iterable[Command]:
    """The commands of this plugin."""
    return (
        Command("export", "Export encoder and decoder to ONNX or torch.export.", "zoo_export.cli:export"),
        Command("encode", "Write the posterior parameters of images as arrays.", "zoo_export.cli:encode"),
        Command("decode", "Decode latents from a file.", "zoo_export.cli:decode"),
    )
