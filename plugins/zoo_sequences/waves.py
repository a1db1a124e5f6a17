"""Generated series: two channels of noisy mixtures of sines."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from zoo import Dataset, Split

COMPONENTS = 2
PERIODS = (2.0, 6.0)

Examples = Annotated[int, Field(ge=2)]


def waves(
    examples: Examples = 2000,
    length: PositiveInt = 64,
    noise: NonNegativeFloat = 0.1,
    missing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    data_seed: NonNegativeInt = 0,
) -> Dataset:
    """Series (2, L) that are mixtures of two sines, sampled with noise. A fifth of them are test series.

    The first channel is sum_k a_k sin(2 pi f_k t + phi_k) for t in [0, 1), with amplitudes a_k from U(0.5, 1),
    frequencies f_k from U(2, 6) and phases phi_k from U(0, 2 pi); the second is the same with cosines. Gaussian noise
    is added to both.

    Args:
        examples: number of series.
        length: number L of time steps.
        noise: standard deviation of the noise.
        missing: probability that a time step is missing, in both channels.
        data_seed: determines every series.
    """
    generator = torch.Generator().manual_seed(data_seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    shape = (examples, COMPONENTS, 1)
    amplitude, frequency, phase = uniform(0.5, 1, *shape), uniform(*PERIODS, *shape), uniform(0, 2 * math.pi, *shape)
    angle = 2 * math.pi * frequency * (torch.arange(length) / length) + phase
    clean = torch.stack([(amplitude * angle.sin()).sum(1), (amplitude * angle.cos()).sum(1)], 1)
    x = clean + noise * torch.randn(clean.shape, generator=generator)
    mask = None
    if missing:
        mask = (torch.rand(examples, 1, length, generator=generator) >= missing).expand_as(x).contiguous()
    every, held = Split(x, mask=mask), max(1, examples // 5)
    return Dataset(every.part(held, examples), every.part(0, held), modality="sequence")
