"""Checks of what a component keeps, what it leaves alone, and where it can be taken."""

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
from zoo_export.export import Part, export_model

MODULES = ("encoder", "posterior", "decoder", "likelihood", "prior", "loss")


@check(*MODULES, "model")
def state_dict(candidate: Candidate) -> None:
    """Written to safetensors and read into one with other weights, it gives the same numbers, bit for bit."""
    from safetensors.torch import load, save

    vae, loss = candidate.build(seed=0)
    another, other_loss = candidate.build(seed=1)
    for module, other in ((vae, another), (loss, other_loss)):
        content = save({name: value.contiguous() for name, value in module.state_dict().items()})
        other.load_state_dict(load(content))
    batch = candidate.batch(4)
    expected, found = outputs(candidate, vae, loss, batch), outputs(candidate, another, other_loss, batch)
    for name, value in expected.items():
        require(torch.equal(found[name], value), f"{name} is another: it depends on what is not in its state_dict")


@check(*KINDS, "model")
def side_effects(candidate: Candidate) -> None:
    """Making and using it changes nothing in the process but torch's generator: no seed, dtype, threads or filters."""
    used = _user(candidate)
    with contextlib.suppress(NotImplementedError):
        used()  # what is only imported once is imported now
    stirred_generators()
    torch.manual_seed(1234567)
    generator, before = torch.get_rng_state(), _process_state()
    with contextlib.suppress(NotImplementedError):
        used()
    for name, value in _process_state().items():
        require(value == before[name], f"{name} was {_brief(before[name])} and is {_brief(value)} afterwards")
    if candidate.kind == "dataset":
        require(torch.equal(torch.get_rng_state(), generator), "torch's generator has moved on")


@check(*MODULES)
def inputs_untouched(candidate: Candidate) -> None:
    """It does not alter the images and labels that it is given."""
    vae, loss = candidate.build()
    batch = candidate.batch(4)
    before = Batch(batch.x.clone(), None if batch.condition is None else batch.condition.clone())
    loss(vae, batch)
    outputs(candidate, vae, loss, batch)
    require(torch.equal(batch.x, before.x), "x is another afterwards")
    if batch.condition is not None and before.condition is not None:
        require(torch.equal(batch.condition, before.condition), "condition is another afterwards")


@check(*MODULES)
def dtype(candidate: Candidate) -> None:
    """Single precision stays single, and after ``.double()`` all numbers are doubles."""
    for wanted in (torch.float32, torch.float64):
        vae, loss = candidate.build()
        batch = candidate.batch(4)
        vae, loss, batch = vae.to(wanted), loss.to(wanted), batch._replace(x=batch.x.to(wanted))
        if candidate.kind == "loss":
            _require_model(vae, batch)
        found = outputs(candidate, vae, loss, batch)
        for name, value in found.items():
            require(value.dtype == wanted, f"{name} is of {value.dtype} in a model of {wanted}")


def _require_model(vae: VAE, batch: Batch) -> None:
    """Leave the check out where the model around a loss is what fails."""
    try:
        with torch.no_grad(), evaluating(vae):
            trace = vae.trace(batch)
            numbers = [trace.z, trace.p.log_prob(batch.x)]
    except NotImplementedError:
        return
    except Exception as error:
        skip(f"the model that it is checked in does not work in {batch.x.dtype}: {error}")
    if any(value.dtype != batch.x.dtype for value in numbers):
        skip(f"the model that it is checked in does not stay in {batch.x.dtype}")


@check(*MODULES, "model")
def device(candidate: Candidate) -> None:
    """It works where it is moved to: on CUDA, else on ``meta``, where a tensor made elsewhere is found out."""
    target = torch.device("cuda" if torch.cuda.is_available() else "meta")
    vae, loss = candidate.build()
    batch = candidate.batch(4)
    moved = Batch(batch.x.to(target), None if batch.condition is None else batch.condition.to(target))
    expected = outputs(candidate, vae, loss, batch)
    try:
        found = outputs(candidate, vae.to(target), loss.to(target), moved)
    except (NotImplementedError, RuntimeError) as error:
        if target.type == "meta" and "device" not in str(error).replace("meta device", ""):
            skip("it looks at values, which only a CUDA device could tell from a fault")
        raise
    for name, value in found.items():
        require(value.device.type == target.type, f"{name} is on {value.device}, not on {target}")
        require(value.shape == expected[name].shape, f"{name} has another shape on {target}")
        if target.type == "cuda" and name != "z":
            require(bool(torch.isfinite(value).all()), f"{name} is not finite on {target}")


@check("encoder", "posterior", "decoder", "likelihood")
def exports(candidate: Candidate) -> None:
    """`zoo export` writes its side of a model in a form that agrees with it for batches of any size."""
    vae, _ = candidate.build()
    part: Part = "encoder" if candidate.kind in ("encoder", "posterior") else "decoder"
    with tempfile.TemporaryDirectory() as folder:
        try:
            export_model(vae, SHAPE, Path(folder) / "exported", "torch", parts=[part], classes=digits().classes)
        except ExportError as error:
            raise CheckFailed(str(error)) from error


@check("dataset")
def images(candidate: Candidate) -> None:
    """It returns a `zoo.Dataset`, the same each time that it is asked, whose test images are not those it trains on."""
    one = _dataset(candidate)
    stirred_generators()
    require(_dataset(candidate).sha256() == one.sha256(), "asked twice, it returned other images")
    require(one.train.x.data_ptr() != one.test.x.data_ptr(), "it trains and tests on the same images")


def _dataset(candidate: Candidate) -> Dataset:
    made = candidate.make(**candidate.given())
    if not isinstance(made, Dataset):
        raise CheckFailed(f"it returned a {type(made).__name__}, not a zoo.Dataset")
    return made


@check("metric")
def measurements(candidate: Candidate) -> None:
    """Measured twice from one seed it gives the same finite numbers, and it leaves the model's weights as they were."""
    vae, _ = candidate.build()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    first = _measured(candidate, vae)
    stirred_generators()
    require(_measured(candidate, vae) == first, "measured twice from one seed, it gave other numbers")
    for name, value in vae.state_dict().items():
        require(torch.equal(value, before[name]), f"it changed {name}")


def _measured(candidate: Candidate, vae: VAE) -> list[Measurement]:
    context = EvaluationContext(vae, candidate.recipe, few_digits(train=100, test=20), limit=8)
    metric = candidate.make()
    with torch.no_grad(), evaluating(vae), seeded(0):
        measured = list(metric(context))
    for measurement in measured:
        require(isinstance(measurement, Measurement), f"it returned a {type(measurement).__name__}, not a Measurement")
        require(math.isfinite(measurement.value), f"{measurement.name} is {measurement.value}")
    return measured


def _user(candidate: Candidate) -> Callable[[], object]:
    """What makes a candidate and uses it once."""
    if candidate.kind == "dataset":
        return lambda: candidate.target(**candidate.given(), **candidate.factory().spec.parameters)
    if candidate.kind == "metric":
        return lambda: _measured(candidate, candidate.build()[0])

    def use() -> None:
        vae, loss = candidate.build()
        outputs(candidate, vae, loss, candidate.batch(4))

    return use


def stirred_generators() -> None:
    """Leave the generators of Python and NumPy in a state that nothing has seen."""
    random.seed()
    np.random.seed()


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """The generators of Python and NumPy as they were, after the block."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _process_state() -> dict[str, object]:
    """What others in the process would notice."""
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
    return text if len(text) < 60 else "what it was" if len(text) > 1000 else text[:57] + "..."
