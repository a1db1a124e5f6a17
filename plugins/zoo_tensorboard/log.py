"""The callback that writes the TensorBoard log of a run."""

from __future__ import annotations

from typing import Any

from torch.utils.tensorboard import SummaryWriter

from zoo import Callback, Epoch, Run, Training, best_epoch


class TensorBoardLog(Callback):
    """Write the log of one run. A resumed run discards what was logged after its checkpoint and continues the log.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_begin(self, trainer: Training) -> None:
        """Open the log and write the recipe."""
        purge = trainer.step + 1 if trainer.step else None
        self.writer: Any = SummaryWriter(str(self.run.path / "tensorboard"), purge_step=purge)
        self.writer.add_text("recipe", f"```yaml\n{(self.run.path / 'recipe.yaml').read_text('utf-8')}```", 0)

    def on_epoch_end(self, trainer: Training, epoch: Epoch) -> None:
        """Log the terms of every step, and the means over each split."""
        for name, values in epoch.curve.items():
            first = epoch.step - len(values) + 1
            for offset, value in enumerate(values):
                self.writer.add_scalar(f"step/{name}", value, first + offset)
        for split, terms in (("train", epoch.train), *epoch.held_out.items()):
            for name, value in terms.items():
                self.writer.add_scalar(f"{split}/{name}", value, epoch.step)
        self.writer.flush()

    def on_train_end(self, trainer: Training, finished: bool) -> None:
        """Close the log. Of a finished run, log the figures, the hyperparameters and the best epoch's test terms."""
        if finished:
            self._figures()
            recipe = _flat(self.run.recipe.to_raw())
            best = best_epoch(trainer.history, trainer.config.monitor)
            self.writer.add_hparams(recipe, {f"hparam/{k}": v for k, v in best.test.items()}, run_name="hparams")
        self.writer.close()

    def _figures(self) -> None:
        from matplotlib.image import imread

        for file in sorted(self.run.figures.glob("*.png")):
            self.writer.add_image(file.stem, imread(file), 0, dataformats="HWC")


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted keys and scalar or string values."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat.update(_flat(inner, f"{prefix}{key}."))
        else:
            flat[prefix + key] = inner if isinstance(inner, bool | int | float | str) else str(inner)
    return flat
