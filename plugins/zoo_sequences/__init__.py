"""Sequences: networks for series of numbers, an autoregressive decoder for tokens, and data sets of both."""

from __future__ import annotations

from collections.abc import Iterable

from zoo import Component, View, hookimpl

SLOW = "a network of 64 tokens in sequence needs more steps than the check takes"


@hookimpl
def zoo_components() -> Iterable[Component]:
    """Return the encoders, the decoders, the data sets and the metric."""
    return (
        Component("encoder", "conv1d", "zoo_sequences.conv1d:Conv1dEncoder", "Convolutions over time, each halving it"),
        Component("decoder", "conv1d", "zoo_sequences.conv1d:Conv1dDecoder", "Transposed convolutions over time"),
        Component("encoder", "rnn", "zoo_sequences.recurrent:RecurrentEncoder", "GRU or LSTM in both directions"),
        Component("decoder", "rnn", "zoo_sequences.recurrent:RecurrentDecoder", "GRU or LSTM that receives z"),
        Component("encoder", "tokens", "zoo_sequences.tokens:TokenEncoder", "GRU or LSTM on embedded tokens"),
        Component(
            "decoder",
            "tokens",
            "zoo_sequences.tokens:TokenDecoder",
            "Autoregressive GRU or LSTM for tokens",
            expected_failures={"overfits": SLOW},
        ),
        Component("dataset", "waves", "zoo_sequences.waves:waves", "generated series, mixtures of sines"),
        Component(
            "dataset", "sentences", "zoo_sequences.sentences:sentences", "generated sentences of a small grammar"
        ),
        Component("dataset", "text", "zoo_sequences.text:text", "the lines of a text file", (".txt",)),
        Component(
            "metric",
            "bits-per-character",
            "zoo_sequences.metrics:BitsPerCharacter",
            "Negative ELBO of text per character",
        ),
    )


@hookimpl
def zoo_views() -> Iterable[View]:
    """Figures of sequences, and files of samples."""
    writers = {"txt": "zoo_sequences.views:write_txt", "npy": "zoo_sequences.views:write_npy"}
    return (View("sequence", "zoo_sequences.views:figures", writers),)
