"""Training, evaluation and loading in threads of one process give the same results as alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from processes import WAIT
from resuming import TINY, When, assert_same, essence, stopped
from zoo.model.context import exclusive
from zoo_export.codes import encode
from zoo_figures import figures

SLOW = """
    import time, torch, zoo

    @zoo.hookimpl
    def zoo_components():
        yield zoo.Component("loss", "yielding", "acme_yielding:Yielding")

    class Yielding(zoo.Loss):
        '''The ELBO, which lets other threads run between the seeding of a step and its draws.'''

        def forward(self, vae, batch):
            time.sleep(0.003)
            trace = vae.trace(batch)
            return {"loss": trace.kl.mean() - trace.log_px.mean()}
"""
OVERRIDES = [*TINY, "loss=yielding", "train.epochs=2"]


@pytest.fixture
def yielding(install: Callable[..., Path]) -> None:
    install("acme-yielding", SLOW)


def train(out: Path, seed: int = 0, *more: str, **options: Any) -> dict[str, Any]:
    return essence(zoo.train("mlp-vae", [*OVERRIDES, f"train.seed={seed}", *more], out=out, **options))


def test_trainings_in_threads_equal_lone_ones(yielding, tmp_path):
    """Three at once, one of them deterministic, each with its own seed; the caller's generator is unchanged."""
    alone = [train(tmp_path / "alone", seed) for seed in range(2)]
    state = torch.get_rng_state()
    jobs: list[Any] = [(0,), (1,), (0, "train.deterministic=true")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(lambda job: train(tmp_path / f"{len(job)}-{job[0]}", *job), jobs))
    for run, expected in zip(together, (alone[0], alone[1], alone[0]), strict=True):
        assert_same(run, expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def others(run: Path, data: zoo.Dataset, seed: int) -> dict[str, Callable[[], Any]]:
    """The work of another thread. Functions that draw from torch's generator return the same results as alone."""
    vae = zoo.load(run)
    x = (data.test.x[:2] > 127).float()
    return {
        "evaluate": lambda: zoo.evaluate(run, limit=50, samples=5, seed=seed).to_json()["measurements"],
        "encode": lambda: encode(run, samples=2, seed=seed)["samples"].sum().item(),
        "log_likelihood": lambda: vae.log_likelihood(x, 10, seed=seed).tolist(),
        "test_batch": lambda: zoo.Run(run).test_batch(5).x.sum().item(),
        "load": lambda: zoo.load(run).encoder is not None,
        "create_model": lambda: zoo.create_model("mlp-vae", data_shape=(1, 28, 28)).latent_shape,
        "create_loss": lambda: type(zoo.create_loss("mlp-vae", data_shape=(1, 28, 28))).__name__,
        "sample": lambda: tuple(vae.sample(3).shape),
        "unseeded log_likelihood": lambda: len(vae.log_likelihood(x, 10)),
        "figure": lambda: bool(figures.samples(vae, 4)),
    }


def test_a_training_beside_other_work_equals_a_lone_one(yielding, tmp_path):
    """Evaluations, loads, new models, samples and figures in another thread do not change a training, nor it them."""
    alone = train(tmp_path / "alone")
    (run,) = (tmp_path / "alone" / "mlp-vae").iterdir()
    jobs = others(run, zoo.load_dataset("digits"), 3)
    expected = {name: job() for name, job in jobs.items()}
    started, done, results = threading.Event(), threading.Event(), {}

    def work() -> None:
        started.wait(WAIT)
        while not done.is_set():
            results.update({name: job() for name, job in jobs.items()})

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work)
        beside = train(tmp_path / "beside", callbacks=[When(1, started.set)])
        done.set()
        other.result(WAIT)
    assert_same(beside, alone)
    assert results == expected


def test_resumed_and_fitted_in_threads(yielding, tmp_path):
    """The same for `zoo.resume` and `zoo.fit_prior`."""
    expected = train(tmp_path / "alone")
    (finished,) = (tmp_path / "alone" / "mlp-vae").iterdir()
    fit = {"prior": "gaussian-mixture", "components": 2, "seed": 5}
    fitted = zoo.fit_prior(finished, **fit)
    halves = [stopped("mlp-vae", OVERRIDES, 7, tmp_path / name) for name in "ab"]
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(zoo.resume, run) for run in halves]
        again = pool.submit(zoo.fit_prior, finished, **fit)
        assert again.result(WAIT) == fitted
        for run in runs:
            assert_same(essence(run.result(WAIT)), expected)


def test_who_waits_says_so(caplog):
    """A second thread that needs torch's generators logs why it waits; the thread that has them may enter again."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(), exclusive():
            entered.set()
            leave.wait(WAIT)

    with ThreadPoolExecutor(2) as pool, caplog.at_level("INFO", "zoo"):
        holder = pool.submit(hold)
        entered.wait(WAIT)
        waiting = pool.submit(zoo.create_model, "mlp-vae", latent_dim=2, data_shape=(1, 4, 4))
        for _ in range(1000):
            if caplog.records:
                break
            threading.Event().wait(0.01)
        assert not waiting.done()
        leave.set()
        holder.result(WAIT)
        assert waiting.result(WAIT).latent_shape == (2,)
    assert "Waiting for another thread of this process" in caplog.text


def test_threads_that_begin_together_put_stdout_back():
    """The plugins are loaded with stdout redirected; two threads that start at once restore it."""
    program = (
        "import sys, threading, zoo\n"
        "before = sys.stdout\n"
        "gate = threading.Barrier(8)\n"
        "threads = [threading.Thread(target=lambda: (gate.wait(), zoo.list_models())) for _ in range(8)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "assert sys.stdout is before, sys.stdout\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
