"""Small histograms as inline SVG: how many texts gave the adversarial adapters which share of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from robusweep.record import WeightProfile

WIDTH, HEIGHT, AXIS = 210, 46, 20
LEFT, RIGHT, TOP, BOTTOM = 8, 202, 3, 44
N_BINS = 10


def share_axis() -> str:
    """The numbers of the axis, to stand above a column of histograms."""
    texts = "".join(
        f'<text x="{_x(10 * value):.1f}" y="{AXIS - 5}" text-anchor="middle">{value:g}</text>'
        for value in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return f'<svg class="shares" viewBox="0 0 {WIDTH} {AXIS}" aria-hidden="true">{texts}</svg>'


def share_histograms(profiles: Mapping[str, WeightProfile], styles: Mapping[str, str]) -> list[str]:
    """One for each source of texts, drawn to its own height: a few texts are as readable as many.

    ``styles``: source -> class of its colour.
    """
    return [_histogram(source, profile, styles.get(source, "robust")) for source, profile in profiles.items()]


def _histogram(source: str, profile: WeightProfile, style: str) -> str:
    lines = "".join(f'<path class="grid" d="M{_x(bins):.1f} {TOP}V{BOTTOM}"/>' for bins in (0, 2.5, 5, 7.5, 10))
    bars = "".join(_bar(i, count, profile, style) for i, count in enumerate(profile.adversarial))
    return (
        f'<svg class="shares" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="adversarial share for texts of '
        f'{escape(source)}">{lines}{bars}<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/></svg>'
    )


def _bar(i: int, count: int, profile: WeightProfile, style: str) -> str:
    if count == 0:
        return ""
    height = (BOTTOM - TOP) * count / max(profile.adversarial)
    width = _x(1) - _x(0) - 2
    end = "1" if i == N_BINS - 1 else f"under {(i + 1) / N_BINS:g}"
    return (
        f'<rect class="bar {style}" x="{_x(i) + 1:.1f}" y="{BOTTOM - height:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"><title>{i / N_BINS:g} to {end}: {count} of {profile.n} texts</title></rect>'
    )


def _x(bins: float) -> float:
    return LEFT + (RIGHT - LEFT) * bins / N_BINS
