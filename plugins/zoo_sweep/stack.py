"""Several models of the same shapes as one: their losses and gradients in one pass of `torch.func.vmap`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from zoo import VAE, Batch, Loss, Trainer, error_summary
from zoo_sweep.draws import CannotStack, Draw, Recording, Replaying

Terms = dict[str, Tensor]
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Relative differences between a model in a stack and alone, by precision, above which it is not trained in a stack."""
PLAIN = (str, bool, tuple, list, dict, type(None))


class Objective(nn.Module):
    """The objective of a model as a module, so that all tensors of model and loss have a name.

    Args:
        vae, loss: the model and its loss, which has one phase.
    """

    def __init__(self, vae: VAE, loss: Loss) -> None:
        super().__init__()
        self.vae = vae
        self.loss = loss
        (phase,) = loss.phases(vae)
        self._objective = (phase.objective,)  # in a tuple, since a module would be registered twice

    def forward(self, batch: Batch) -> Terms:
        """The terms of a batch."""
        terms: Terms = self._objective[0](self.vae, batch)
        return terms


class Stack:
    """The models of several trainers, whose parameters and buffers become rows of stacked tensors.

    A trainer keeps working: its parameters and buffers are views of its row.

    Args:
        trainers: trainers with the same `signature`.

    Attributes:
        weights: all trained parameters, (models, parameters).

    Raises:
        CannotStack: the models differ in a setting that is neither a number nor a tensor.
    """

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)
        self.device = trainers[0].device
        self._precision = trainers[0].config.precision
        objectives = [Objective(trainer.vae, trainer.loss) for trainer in trainers]
        self._objectives = objectives
        self._numbers = _differing_numbers(objectives)
        tensors = [_tensors(objective) for objective in objectives]
        trained = {id(parameter) for parameter in trainers[0].phases[0].parameters}
        self.trained = [name for name, tensor in tensors[0].items() if id(tensor) in trained]
        self.shapes = [tensors[0][name].shape for name in self.trained]
        self.sizes = [shape.numel() for shape in self.shapes]
        with torch.no_grad():
            self.weights = torch.stack(
                [torch.cat([own[name].detach().flatten() for name in self.trained]) for own in tensors]
            )
            self._constants = {
                name: torch.stack([own[name].detach() for own in tensors])
                for name in tensors[0]
                if name not in self.trained
            }
        self._tensors = tensors
        for row, own in enumerate(tensors):
            for name, value in zip(self.trained, self.rows(self.weights, row), strict=True):
                own[name].data = value
            for name, values in self._constants.items():
                own[name].data = values[row]
        self._template = objectives[0]
        self._slots = _slots(objectives[0], [*self.trained, *self._constants])
        self._draws: dict[tuple[int, ...], list[Draw]] = {}
        self._graphs: dict[tuple[int, ...], Callable[..., tuple[Terms, Tensor]]] = {}

    def rows(self, stacked: Tensor, row: int) -> list[Tensor]:
        """Views of the parameters of one model in a tensor like `weights`."""
        parts = torch.split(stacked[row], self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def parameters(self, row: int) -> list[Tensor]:
        """The trained parameters of one model, in the order of `rows`."""
        return [self._tensors[row][name] for name in self.trained]

    def gradient(self, step: int, batches: Sequence[Batch]) -> tuple[Terms, Tensor]:
        """The terms of each model, (models,), and the gradients of its loss, like `weights`.

        Raises:
            CannotStack: the models cannot be stacked. Each new shape of a batch is checked against the models alone.
        """
        shape = tuple(batches[0].x.shape)
        if shape not in self._draws:
            self._check(step, batches)
        return self._stacked(step, batches, self._draws[shape])

    def keep_checks(self, other: Stack) -> None:
        """Adopt the checks of a stack that contained these models."""
        self._draws = other._draws

    def _stacked(self, step: int, batches: Sequence[Batch], draws: Sequence[Draw]) -> tuple[Terms, Tensor]:
        values = [torch.empty(len(batches), *draw.shape, dtype=draw.dtype, device=self.device) for draw in draws]
        for row, trainer in enumerate(self.trainers):
            trainer.take_step.seed_draws(step)
            for draw, value in zip(draws, values, strict=True):
                draw.write(value[row])
        fields = {
            name: torch.stack([getattr(batch, name) for batch in batches])
            for name in Batch._fields
            if getattr(batches[0], name) is not None
        }
        shape = (len(batches), *batches[0].x.shape)
        arguments = (self.weights, list(self._constants.values()), [n for _, _, n in self._numbers], fields, values)
        if shape not in self._graphs:
            self._graphs[shape] = self._traced(draws, arguments)
        terms, gradient = self._graphs[shape](*arguments)
        return terms, gradient

    def _traced(self, draws: Sequence[Draw], arguments: tuple[Any, ...]) -> Callable[..., tuple[Terms, Tensor]]:
        """The operations of a step of all models, recorded once: `vmap` and autograd take longer than small models."""

        def terms_of_one(
            weights: Tensor, constants: list[Tensor], numbers: list[Tensor], fields: Terms, values: list[Tensor]
        ) -> Terms:
            parts = torch.split(weights, self.sizes)
            parameters = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
            with Replaying(draws, values), self._with_tensors([*parameters, *constants]), self._with_numbers(numbers):
                terms: Terms = self._template(Batch(**fields))
            return terms

        def step(weights: Tensor, *others: Any) -> tuple[Terms, Tensor]:
            weights = weights.detach().requires_grad_()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
                terms = vmap(terms_of_one)(weights, *others)
            (gradient,) = torch.autograd.grad(terms["loss"].sum(), weights)
            return {name: value.detach() for name, value in terms.items()}, gradient

        before = {name: values.clone() for name, values in self._constants.items()}
        try:
            graph: Callable[..., tuple[Terms, Tensor]] = make_fx(step)(*arguments)
        finally:
            self._restore(before)  # tracing runs the operations
        return graph

    @contextlib.contextmanager
    def _with_tensors(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Replace the parameters and buffers of the template inside the block, as `torch.func.functional_call` does.

        That function looks up every name at each call, which takes longer than the pass through a small model.
        """
        before = [places[0][0][places[0][1]] for places in self._slots]
        _fill(self._slots, tensors)
        try:
            yield
        finally:
            _fill(self._slots, before)

    @contextlib.contextmanager
    def _with_numbers(self, numbers: Sequence[Tensor]) -> Iterator[None]:
        """Replace the numbers that differ between the models inside the block."""
        places = [(module, key) for module, key, _ in self._numbers]
        before = [getattr(module, key) for module, key in places]
        for (module, key), number in zip(places, numbers, strict=True):
            setattr(module, key, number)
        try:
            yield
        finally:
            for (module, key), number in zip(places, before, strict=True):
                setattr(module, key, number)

    def _check(self, step: int, batches: Sequence[Batch]) -> None:
        """Compare the terms, gradients and buffers of a step with those of each model alone. Nothing is changed."""
        before = {name: values.clone() for name, values in self._constants.items()}
        numbers = [_plain_numbers(module) for module in self._template.modules()]
        alone, draws = [], []
        for row, batch in enumerate(batches):
            with Recording() as recording:
                alone.append(self._alone(step, row, batch))
            draws.append(recording.draws)
        for module, own in zip(self._template.modules(), numbers, strict=True):
            if changed := [name for name, value in _plain_numbers(module).items() if own.get(name) != value]:
                raise CannotStack(f"{type(module).__name__}.{changed[0]} changes from step to step and is no tensor")
        expected = {name: values.clone() for name, values in self._constants.items()}
        self._restore(before)
        if any(other != draws[0] for other in draws):
            raise CannotStack("its draws differ from model to model")
        try:
            terms, gradient = self._stacked(step, batches, draws[0])
            tolerance = TOLERANCE[self._precision]
            for row, (own_terms, own_gradient) in enumerate(alone):
                for name, value in own_terms.items():
                    _require_close(f"term {name!r}", terms[name][row], value, tolerance)
                _require_close("gradient", gradient[row], own_gradient, tolerance)
            for name, values in expected.items():
                _require_close(f"buffer {name!r}", self._constants[name], values, tolerance)
        except CannotStack:
            raise
        except Exception as error:  # a component may do anything that torch.func does not support
            raise CannotStack(error_summary(error).splitlines()[0]) from error
        finally:
            self._restore(before)
        self._draws[tuple(batches[0].x.shape)] = draws[0]

    def _alone(self, step: int, row: int, batch: Batch) -> tuple[Terms, Tensor]:
        """The terms and the gradient of one model, computed as without a stack."""
        trainer = self.trainers[row]
        trainer.take_step.seed_draws(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
            terms = self._objectives[row](batch)
        gradients = torch.autograd.grad(terms["loss"], self.parameters(row), allow_unused=True)
        for name, gradient in zip(self.trained, gradients, strict=True):
            if gradient is None:
                raise CannotStack(f"its loss does not depend on the parameter {name!r}")
        return {name: value.detach() for name, value in terms.items()}, torch.cat([g.flatten() for g in gradients])

    def _restore(self, before: Terms) -> None:
        for name, values in before.items():
            self._constants[name].copy_(values)


def signature(trainer: Trainer) -> tuple[Any, ...]:
    """What trainers in one stack have in common: shapes of models and batches, and how they are trained."""
    config = trainer.config
    objective = nn.ModuleList([trainer.vae, trainer.loss])
    tensors = tuple((name, tuple(t.shape), t.dtype) for name, t in _tensors(objective).items())
    modules = tuple(type(module) for module in objective.modules())
    data = (trainer.dataset.shape, len(trainer.dataset.train), config.batch_size)
    return tensors, modules, data, config.precision, tuple(config.freeze), config.optimizer.use.casefold(), trainer.step


def require_stackable(trainer: Trainer) -> None:
    """Check the settings of a trainer.

    Raises:
        CannotStack: the loss has several phases, or an option does not allow it.
    """
    phases = [optimized.phase for optimized in trainer.phases]
    if len(list(trainer.loss.phases(trainer.vae))) > 1:
        raise CannotStack(f"its loss has several phases: {', '.join(phase.name for phase in phases)}")
    if phases[0].every > 1:
        raise CannotStack(f"the phase of its loss runs in every {phases[0].every}th step only")
    if trainer.config.microbatches > 1:
        raise CannotStack("train.microbatches splits its batches")
    if trainer.config.deterministic:
        raise CannotStack("train.deterministic is set")
    if trainer.config.skip_grad_norm is not None:
        raise CannotStack("train.skip_grad_norm may skip the update of one of the models")
    if trainer.config.memory_format != "contiguous":
        raise CannotStack(f"train.memory_format={trainer.config.memory_format} does not apply to stacked weights")
    if any(getattr(module, "gradient_checkpointing", False) for module in trainer.vae.modules()):
        raise CannotStack("gradient_checkpointing is set, which torch.func does not support")


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _slots(objective: nn.Module, names: Sequence[str]) -> list[list[tuple[dict[str, Any], str]]]:
    """The places of tensors in the modules: several for a tensor that modules share."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in objective.modules():
        for slots in (module._parameters, module._buffers):
            for key, tensor in slots.items():
                places.setdefault(id(tensor), []).append((slots, key))
    tensors = _tensors(objective)
    return [places[id(tensors[name])] for name in names]


def _fill(slots: Sequence[Sequence[tuple[dict[str, Any], str]]], tensors: Sequence[Tensor]) -> None:
    for places, tensor in zip(slots, tensors, strict=True):
        for module, key in places:
            module[key] = tensor


def _differing_numbers(objectives: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """The numbers that are attributes of modules and differ between models: the module of the first, the attribute and
    the values (models,)."""
    numbers = []
    device = next(objectives[0].parameters()).device
    for module, *others in zip(*(objective.modules() for objective in objectives), strict=True):
        for key, value in vars(module).items():
            values = [value, *(vars(other).get(key) for other in others)]
            if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
                if any(v != value for v in values):
                    dtype = torch.int64 if all(isinstance(v, int) for v in values) else torch.float32
                    numbers.append((module, key, torch.tensor(values, dtype=dtype, device=device)))
            elif not key.startswith("_") and isinstance(value, PLAIN) and any(v != value for v in values):
                raise CannotStack(f"the setting {key!r} of {type(module).__name__} differs between the models")
    return numbers


def _plain_numbers(module: nn.Module) -> dict[str, int | float]:
    return {name: value for name, value in vars(module).items() if isinstance(value, int | float)}


def _require_close(title: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Raise `CannotStack` if two tensors differ by more than rounding."""
    difference = (actual.double() - expected.double()).norm()
    if not difference <= tolerance * expected.double().norm() + 1e-6:
        raise CannotStack(f"in a stack its {title} differs from that of the model alone")
