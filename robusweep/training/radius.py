"""What a perturbation radius means. One number is not enough: published radii of different papers don't compare."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from robusweep.spec import Spec

SPACE = r"^(word|post_ln|layer:[1-9][0-9]?)$"


class Radius(Spec):
    """The ball that holds a perturbation ``delta`` of the embeddings of one text.

    ``value``: its radius in embedding units; 0 is clean training bit for bit, null is unbounded.
    ``norm`` and ``scope``: ``l2`` of the whole ``sentence`` (Frobenius norm over tokens and coordinates; FreeLB),
    ``l2`` of each ``token``, or ``linf`` of each ``coordinate``. Padding never counts.
    ``length_scale: sqrt_tokens`` multiplies a sentence's radius by the square root of its number of perturbed tokens,
    so that long texts get as much per token as short ones (ours; FreeLB has ``none``).
    ``space``: where the perturbation is added: ``word``, the word embeddings before position and LayerNorm;
    ``post_ln``, the embedding module's output; ``layer:k``, the output of the k-th transformer layer, from 1 (SMAAT,
    arXiv:2405.17130, perturbs a late one). Radii of different spaces don't compare.
    ``project_init: false`` leaves the random start outside the ball, as FreeLB does. ``special_tokens``: whether the
    first and last token ([CLS], [SEP]) are perturbed too. The short form ``radius: 0.3`` sets ``value`` and keeps the
    rest.
    """

    value: float | None = Field(ge=0)
    norm: Literal["l2", "linf"] = "l2"
    scope: Literal["sentence", "token", "coordinate"] = "sentence"
    length_scale: Literal["none", "sqrt_tokens"] = "none"
    space: str = Field("word", pattern=SPACE)
    project_init: bool = True
    special_tokens: bool = True

    @model_validator(mode="after")
    def _defined(self) -> Radius:
        if (self.norm == "linf") != (self.scope == "coordinate"):
            raise ValueError(
                f"norm {self.norm} with scope {self.scope} is not defined (allowed: l2 with sentence or token, "
                "linf with coordinate)"
            )
        if self.length_scale == "sqrt_tokens" and self.scope != "sentence":
            raise ValueError("length_scale: sqrt_tokens needs scope: sentence")
        return self


def _short_form(value: Any) -> Any:
    """``0.3`` or null in YAML means ``{value: 0.3}`` or ``{value: null}``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"value": value} if value is None or is_number else value


RadiusEntry = Annotated[Radius, BeforeValidator(_short_form)]
