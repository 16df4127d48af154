"""Where an encoder can be reached into: its embeddings, its layers, and what its classifier reads."""

from __future__ import annotations

from typing import Any

from torch import nn

from robusweep.errors import StageError


def classifier_of(network: nn.Module) -> Any:
    """The sequence classifier under a PEFT wrapper, or the network itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network  # type: ignore[operator]


def encoder_of(network: nn.Module) -> Any:
    """The encoder: everything but the classification head."""
    inner = classifier_of(network)
    return getattr(inner, inner.base_model_prefix)


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The transformer layers, first to last. Raises ``StageError`` where they can't be told."""
    encoder = encoder_of(network)
    n_layers = encoder.config.num_hidden_layers
    found = [m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if not found:
        raise StageError(f"model: no list of {n_layers} layers in {type(encoder).__name__}")
    return list(found[0])


def perturbed_module(network: nn.Module, space: str) -> Any:
    """The module whose output a perturbation of this space is added to.

    ``word``: the table of word embeddings. ``post_ln``: the whole embedding module. ``layer:k``: the k-th layer,
    counted from 1. Raises ``StageError`` for a layer that the model has not.
    """
    if space == "word":
        return classifier_of(network).get_input_embeddings()
    if space == "post_ln":
        return encoder_of(network).embeddings
    layers, k = layers_of(network), int(space.removeprefix("layer:"))
    if k > len(layers):
        raise StageError(f"radius.space: {space!r}, but the model has {len(layers)} layers")
    return layers[k - 1]


def width(network: nn.Module, space: str) -> int:
    """How many coordinates a perturbation has at each token."""
    if space.startswith("layer:"):
        return int(encoder_of(network).config.hidden_size)
    return int(classifier_of(network).get_input_embeddings().weight.shape[1])
