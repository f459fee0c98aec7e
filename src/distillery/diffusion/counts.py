"""How large generators and autoencoders are, told by their settings: without torch, and never more than they are."""

from __future__ import annotations

from collections.abc import Sequence

from distillery.counts import Counts, convolution, matrix


def transformer_counts(layers: int, width: int, tokens: int) -> Counts:
    """A DiT: in each layer attention, a perceptron of four times the width, and the modulation by the timestep."""
    attention = matrix(width, 3 * width, tokens) + matrix(width, width, tokens)
    perceptron = matrix(width, 4 * width, tokens) + matrix(4 * width, width, tokens)
    scores = Counts(0.0, 2.0 * tokens**2 * width, 3.0 * tokens * width)  # queries, keys and values are kept for them
    return _times(layers, attention + perceptron + scores + matrix(width, 6 * width))


def autoencoder_counts(widths: Sequence[int], layers_per_block: int, channels: int, side: int) -> Counts:
    """An `AutoencoderKL`, encoder and decoder; its middle blocks are not counted."""
    counts, inner = convolution(channels, widths[0], side) + convolution(widths[0], channels, side), widths[0]
    for index, outer in enumerate(widths):
        maps = side >> index
        whole = convolution(outer, outer, maps)
        # the first block of the encoder widens, the last one of the decoder before it narrows
        counts += convolution(min(inner, outer), outer, maps) + whole + _times(2 * (layers_per_block - 1), whole)
        counts += _times(2 * layers_per_block, whole)
        inner = outer
    return counts


def _times(number: int, counts: Counts) -> Counts:
    return Counts(number * counts.parameters, number * counts.products, number * counts.kept)
