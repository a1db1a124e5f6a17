"""Anomaly scores of data under a trained run, and how well they separate labelled anomalies."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import zoo
from zoo import (
    VAE,
    DataError,
    Dataset,
    EvaluationContext,
    NotApplicable,
    UsageError,
    atomic_write,
    did_you_mean,
    evaluating,
    evaluation_batch_size,
    flushed_denormals,
    resolve_device,
)
from zoo_score.methods import Settings, method
from zoo_score.reading import Examples, read

LATENTS = 50_000
"""Draws from posteriors that are kept in memory at once."""
BATCH = 500
"""Largest number of examples that are scored at once."""
SHOWN_LABELS = 10
"""Number of labels in a message."""


@dataclass(frozen=True)
class Separation:
    """How well a score separates anomalies from other examples.

    Attributes:
        auroc: area under the ROC curve: the probability that an anomaly has the higher score. 0.5 for a random score.
        average_precision: mean precision over the recall levels; the fraction of anomalies for a random score.
    """

    auroc: float
    average_precision: float


@dataclass(frozen=True)
class Scores:
    """Anomaly scores. A higher score is more anomalous.

    Attributes:
        values: scores in nats by method, each float64 (N,).
        examples: the examples, in the order of the scores.
        anomalous: bool (N,), true where the label is one of the anomalies; None without anomalies.
        protocol: settings that the scores depend on.
        note: a caveat, such as that the score is not a likelihood; empty if there is none.
    """

    values: dict[str, NDArray[np.float64]]
    examples: Examples
    anomalous: NDArray[np.bool_] | None
    protocol: dict[str, object]
    note: str = ""

    def __len__(self) -> int:
        return len(self.examples.split)

    def ranking(self, method: str | None = None) -> NDArray[np.int64]:
        """Indices of the examples, the most anomalous first, by the first method unless another is given."""
        values = next(iter(self.values.values())) if method is None else self.values[method]
        return np.argsort(-values, kind="stable")

    def separation(self) -> dict[str, Separation]:
        """The separation of anomalies by method; empty without anomalies."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        if self.anomalous is None:
            return {}
        return {
            name: Separation(
                float(roc_auc_score(self.anomalous, values)), float(average_precision_score(self.anomalous, values))
            )
            for name, values in self.values.items()
        }

    def array(self) -> NDArray[np.float64]:
        """The scores, (N,) for one method and (N, methods) for several."""
        values = np.stack([*self.values.values()], axis=1)
        return values[:, 0] if len(self.values) == 1 else values

    def save(self, path: Path) -> None:
        """Write the scores: all columns as ``.csv``, or the `array` alone as ``.npy``.

        Raises:
            UsageError: the file name has another ending.
            DataError: the file cannot be written.
        """
        writers: dict[str, Callable[[IO[bytes]], None]] = {".csv": self._write_csv, ".npy": self._write_npy}
        write = writers[require_format(path)]
        try:
            with atomic_write(path) as file:
                write(file)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error.strerror or error}") from error

    def _write_npy(self, file: IO[bytes]) -> None:
        np.save(file, self.array())

    def _write_csv(self, file: IO[bytes]) -> None:
        """Columns: ``index`` or ``path``, ``label`` and ``anomaly`` if they exist, and one for each method."""
        names, labels = self.examples.names(), self.examples.labels()
        header = ["path" if self.examples.split.paths else "index"]
        header += [] if labels is None else ["label"]
        header += [] if self.anomalous is None else ["anomaly"]
        text = codecs.lookup("utf-8").streamwriter(file, "surrogateescape")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*header, *self.values])
        for row, name in enumerate(names):
            cells: list[object] = [name]
            cells += [] if labels is None else [labels[row]]
            cells += [] if self.anomalous is None else [int(self.anomalous[row])]
            writer.writerow([*cells, *(repr(float(values[row])) for values in self.values.values())])


def require_format(path: Path) -> str:
    """The ending of a file of scores.

    Raises:
        UsageError: it is neither ``.csv`` nor ``.npy``, or its folder does not exist.
    """
    ending = path.suffix.lower()
    if ending not in (".csv", ".npy"):
        raise UsageError(f"{path}: expected a file that ends in .csv or .npy.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder of {path} does not exist. Create it, or choose another file.")
    return ending


def score(
    run: str | Path | zoo.Run,
    data: object = None,
    method: str | Sequence[str] = "elbo",
    *,
    samples: int = 100,
    steps: int = 200,
    anomaly: str | int | Sequence[str | int] = (),
    limit: int | None = None,
    seed: int = 0,
    prior: Literal["fitted", "original"] = "fitted",
    data_dir: Path | str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score how anomalous examples are under the trained model of a run.

    Args:
        run: as in `zoo.load`.
        data: the examples, as in `zoo.train`; every example is scored. By default the test split of the run.
        method: one or several of

            - ``elbo``: the negative ELBO.
            - ``log-likelihood``: the negative importance-weighted log-likelihood (arXiv 1509.00519).
            - ``reconstruction``: the mean of -log p(x | z) over q(z | x) (An and Cho 2015).
            - ``regret``: the ELBO that is gained by optimizing the posterior of the example (arXiv 2003.02977).
        samples: draws of z per example.
        steps: optimizer steps of ``regret``.
        anomaly: labels, by name or number, whose examples are anomalies.
        limit: number of examples to score, from the first.
        seed: seed of every draw, binarization included.
        prior, data_dir, device: as in `zoo.evaluate`.
        progress: called with the number of examples scored so far, and of all examples.

    Returns:
        The scores, in nats per example. A higher score is more anomalous. Missing entries do not contribute.

    Raises:
        RunError: there is no such run.
        DataError: the data are not available, or have another shape than those of the run.
        UsageError: a method or a label does not exist, or a method does not apply to the model.
    """
    names = list(dict.fromkeys([method] if isinstance(method, str) else method))
    _require(names, samples, steps, limit)
    run = run if isinstance(run, zoo.Run) else zoo.Run.open(run)
    vae = run.load(prior=prior)
    examples = read(run, data, None if data_dir is None else Path(data_dir)).first(limit)
    labels = [anomaly] if isinstance(anomaly, str | int) else list(anomaly)
    anomalous = anomalies(examples, labels) if labels else None
    split = examples.for_model(vae.classes, run.label_names)
    target = resolve_device(device)
    dataset = Dataset(split, split)
    context = EvaluationContext(vae, run.recipe, dataset, "train", None, seed, target, progress=progress)
    values = score_context(context, names, Settings(samples, steps, seed))
    protocol: dict[str, object] = {"examples": len(split), "binarize": run.recipe.binarize, "samples": samples}
    protocol |= {"steps": steps} if "regret" in names else {}
    return Scores(values, examples, anomalous, {**protocol, "seed": seed}, context.no_likelihood)


def score_context(
    context: EvaluationContext, names: Sequence[str], settings: Settings
) -> dict[str, NDArray[np.float64]]:
    """The scores of the examples of a context by method, each float64 (N,); see `score`."""
    batch = evaluation_batch_size((settings.samples, *context.dataset.shape), min(BATCH, LATENTS // settings.samples))
    indices = torch.split(torch.arange(len(context)), batch)
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    vae: VAE = context.vae
    with torch.no_grad(), evaluating(vae), flushed_denormals():
        for index in context.track(indices, len(indices)):
            examples = context.images[index]
            for name in names:
                try:
                    values[name].append(method_values(vae, name, examples, settings))
                except NotApplicable as error:
                    raise NotApplicable(f"The method {name!r} does not apply: {error}.") from error
    return {name: torch.cat(chunks).numpy() for name, chunks in values.items()}


def method_values(vae: VAE, name: str, batch: zoo.Batch, settings: Settings) -> Tensor:
    """The scores of a batch by one method, float64 (N,), on the CPU."""
    return method(name)(vae, batch, settings).cpu()


def anomalies(examples: Examples, labels: Sequence[str | int]) -> NDArray[np.bool_]:
    """Which examples have one of the labels, bool (N,).

    Raises:
        UsageError: the data have no labels, a label does not exist, or all examples have one of them.
    """
    names = examples.labels()
    if names is None:
        raise UsageError("The data have no labels, so --anomaly has no meaning. Pass data with labels.")
    numbers = np.asarray(examples.split.labels)
    matches = np.zeros(len(numbers), dtype=bool)
    for label in labels:
        same_name = np.array([name == str(label) for name in names])
        same_number = numbers == int(label) if str(label).isdecimal() else np.zeros_like(matches)
        same = same_name if same_name.any() else same_number
        if not same.any():
            present = sorted(set(names), key=lambda name: (len(name), name) if name.isdecimal() else (0, name))
            shown = ", ".join(present[:SHOWN_LABELS]) + (", ..." if len(present) > SHOWN_LABELS else "")
            raise UsageError(f"No example has the label {label!r}. Labels: {shown}.{did_you_mean(str(label), present)}")
        matches |= same
    if matches.all():
        raise UsageError("Every example is an anomaly, so nothing can be separated. Score data with other labels too.")
    return matches


def _require(names: Sequence[str], samples: int, steps: int, limit: int | None) -> None:
    """Check the arguments of `score`."""
    if not names:
        raise UsageError("Choose at least one method.")
    for name in names:
        method(name)
    positive: dict[str, Any] = {"samples": samples, "steps": steps, **({} if limit is None else {"limit": limit})}
    for argument, value in positive.items():
        if value < 1:
            raise UsageError(f"{argument} must be at least 1, not {value}.")
