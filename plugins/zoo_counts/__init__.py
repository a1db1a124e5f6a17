"""Counts: Poisson and negative binomial likelihoods with a library size, after scVI."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, hookimpl


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoder, decoder and prior with a library size, the likelihoods and the toy data."""
    return (
        Component(
            "encoder", "counts", "zoo_counts.encoder:CountEncoder", "Any encoder of log(1 + x), and library size"
        ),
        Component("decoder", "counts", "zoo_counts.decoder:CountDecoder", "Frequencies times library size"),
        Component("prior", "library", "zoo_counts.prior:LibraryPrior", "Standard normal and log-normal library size"),
        Component("likelihood", "poisson", "zoo_counts.likelihoods:PoissonLikelihood", "Poisson, for counts"),
        Component(
            "likelihood",
            "negative-binomial",
            "zoo_counts.likelihoods:NegativeBinomialLikelihood",
            "Negative binomial, for overdispersed counts",
        ),
        Component(
            "likelihood",
            "zero-inflated-negative-binomial",
            "zoo_counts.likelihoods:ZeroInflatedNegativeBinomialLikelihood",
            "Negative binomial with additional zeros",
        ),
        Component("dataset", "toy-counts", "zoo_counts.toy:toy_counts", "2000 cells, 50 genes, generated"),
    )
