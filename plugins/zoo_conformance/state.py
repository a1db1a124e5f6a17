"""Checks of state: what is saved, what must not change, and other dtypes, devices and formats."""

from __future__ import annotations

import contextlib
import math
import os
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from zoo import KINDS, VAE, Batch, Dataset, EvaluationContext, ExportError, Measurement, evaluating, seeded
from zoo_conformance.candidate import SHAPE, Candidate, digits, few_digits
from zoo_conformance.check import CheckFailed, check, require, skip
from zoo_conformance.probe import outputs
from zoo_export.export import export_model
from zoo_export.plan import Part

MODULES = ("encoder", "posterior", "decoder", "likelihood", "prior", "loss")


@check(*MODULES, "model")
def state_dict(candidate: Candidate) -> None:
    """Saved to safetensors and loaded into a model with other weights, it gives bit-identical outputs."""
    from safetensors.torch import load, save

    vae, loss = candidate.build(seed=0)
    another, other_loss = candidate.build(seed=1)
    for module, other in ((vae, another), (loss, other_loss)):
        content = save({name: value.contiguous() for name, value in module.state_dict().items()})
        other.load_state_dict(load(content))
    batch = candidate.batch(4)
    expected, actual = outputs(candidate, vae, loss, batch), outputs(candidate, another, other_loss, batch)
    for name, value in expected.items():
        require(torch.equal(actual[name], value), f"{name} differs: it depends on state outside of its state_dict")


@check(*KINDS, "model")
def side_effects(candidate: Candidate) -> None:
    """Building and using it changes no global state except torch's generator: no seed, dtype, threads or filters."""
    use = _use_of(candidate)
    with contextlib.suppress(NotImplementedError):
        use()  # performs first-time imports
    reseed_generators()
    torch.manual_seed(1234567)
    generator, before = torch.get_rng_state(), _process_state()
    with contextlib.suppress(NotImplementedError):
        use()
    for name, value in _process_state().items():
        require(value == before[name], f"{name} changed from {_brief(before[name])} to {_brief(value)}")
    if candidate.kind == "dataset":
        require(torch.equal(torch.get_rng_state(), generator), "it draws from torch's generator")


@check(*MODULES)
def inputs_untouched(candidate: Candidate) -> None:
    """It does not modify the images and labels passed to it."""
    vae, loss = candidate.build()
    batch = candidate.batch(4)
    before = Batch(batch.x.clone(), None if batch.condition is None else batch.condition.clone())
    loss(vae, batch)
    outputs(candidate, vae, loss, batch)
    require(torch.equal(batch.x, before.x), "it modifies x")
    if batch.condition is not None and before.condition is not None:
        require(torch.equal(batch.condition, before.condition), "it modifies condition")


@check(*MODULES)
def dtype(candidate: Candidate) -> None:
    """A float32 model returns float32, a float64 model float64."""
    for dtype in (torch.float32, torch.float64):
        vae, loss = candidate.build()
        batch = candidate.batch(4)
        vae, loss, batch = vae.to(dtype), loss.to(dtype), batch._replace(x=batch.x.to(dtype))
        if candidate.kind == "loss":
            _require_model(vae, batch)
        for name, value in outputs(candidate, vae, loss, batch).items():
            require(value.dtype == dtype, f"{name} has dtype {value.dtype} in a model of {dtype}")


def _require_model(vae: VAE, batch: Batch) -> None:
    """Skip the check of a loss if the model itself fails."""
    try:
        with torch.no_grad(), evaluating(vae):
            trace = vae.trace(batch)
            numbers = [trace.z, trace.p.log_prob(batch.x)]
    except NotImplementedError:
        return
    except Exception as error:
        skip(f"the model fails in {batch.x.dtype}: {error}")
    if any(value.dtype != batch.x.dtype for value in numbers):
        skip(f"the model does not keep {batch.x.dtype}")


@check(*MODULES, "model")
def device(candidate: Candidate) -> None:
    """It works on another device: CUDA, or ``meta``, which detects tensors created on the CPU."""
    target = torch.device("cuda" if torch.cuda.is_available() else "meta")
    vae, loss = candidate.build()
    batch = candidate.batch(4)
    moved = Batch(batch.x.to(target), None if batch.condition is None else batch.condition.to(target))
    expected = outputs(candidate, vae, loss, batch)
    try:
        actual = outputs(candidate, vae.to(target), loss.to(target), moved)
    except (NotImplementedError, RuntimeError) as error:
        if target.type == "meta" and "device" not in str(error).replace("meta device", ""):
            skip("it reads values, which needs a CUDA device")
        raise
    for name, value in actual.items():
        require(value.device.type == target.type, f"{name} is on {value.device}, not on {target}")
        require(value.shape == expected[name].shape, f"{name} has another shape on {target}")
        if target.type == "cuda" and name != "z":
            require(bool(torch.isfinite(value).all()), f"{name} is not finite on {target}")


@check("encoder", "posterior", "decoder", "likelihood")
def exports(candidate: Candidate) -> None:
    """`zoo export` can export its part of a model, for any batch size."""
    vae, _ = candidate.build()
    part: Part = "encoder" if candidate.kind in ("encoder", "posterior") else "decoder"
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_model(vae, SHAPE, Path(folder) / "exported", "torch", parts=[part], classes=digits().classes)
        except ExportError as error:
            raise CheckFailed(str(error)) from error


@check("dataset")
def images(candidate: Candidate) -> None:
    """It returns the same `zoo.Dataset` each time, with different training and test images."""
    one = _dataset(candidate)
    reseed_generators()
    require(_dataset(candidate).sha256() == one.sha256(), "two calls return different images")
    require(one.train.x.data_ptr() != one.test.x.data_ptr(), "training and test images are the same")


def _dataset(candidate: Candidate) -> Dataset:
    dataset = candidate.make(**candidate.injected())
    if not isinstance(dataset, Dataset):
        raise CheckFailed(f"it returned a {type(dataset).__name__}, not a zoo.Dataset")
    return dataset


@check("metric")
def measurements(candidate: Candidate) -> None:
    """The same seed gives the same finite measurements, and the weights of the model do not change."""
    vae, _ = candidate.build()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    first = _measure(candidate, vae)
    reseed_generators()
    require(_measure(candidate, vae) == first, "two measurements with the same seed differ")
    for name, value in vae.state_dict().items():
        require(torch.equal(value, before[name]), f"it changes {name}")


def _measure(candidate: Candidate, vae: VAE) -> list[Measurement]:
    context = EvaluationContext(vae, candidate.recipe, few_digits(train=100, test=20), limit=8)
    metric = candidate.make()
    with torch.no_grad(), evaluating(vae), seeded(0):
        results = list(metric(context))
    for measurement in results:
        require(isinstance(measurement, Measurement), f"it returned a {type(measurement).__name__}, not a Measurement")
        require(math.isfinite(measurement.value), f"{measurement.name} is {measurement.value}")
    return results


def _use_of(candidate: Candidate) -> Callable[[], object]:
    """A function that creates a candidate and uses it once."""
    if candidate.kind == "dataset":
        return lambda: candidate.target(**candidate.injected(), **candidate.factory().spec.parameters)
    if candidate.kind == "metric":
        return lambda: _measure(candidate, candidate.build()[0])

    def use() -> None:
        vae, loss = candidate.build()
        outputs(candidate, vae, loss, candidate.batch(4))

    return use


def reseed_generators() -> None:
    """Seed the generators of Python and NumPy from the system."""
    random.seed()
    np.random.seed()


@contextlib.contextmanager
def restored_generators() -> Iterator[None]:
    """Restore the generators of Python and NumPy after the block."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _process_state() -> dict[str, object]:
    """The global state of the process."""
    return {
        "Python's generator": random.getstate(),
        "NumPy's generator": str(np.random.get_state()),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "the number of threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "whether gradients are recorded": torch.is_grad_enabled(),
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled(),
        "the precision of products": torch.get_float32_matmul_precision(),
        "the validation of distributions": torch.distributions.Distribution._validate_args,
        "the list of warning filters": list(warnings.filters),
        "the working directory": Path.cwd(),
        "the environment": dict(os.environ),
    }


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) < 60 else "another value" if len(text) > 1000 else text[:57] + "..."
