"""A report as one picture: a panel per task, a row per method, points with their 95 % intervals."""

import io
from typing import Any

from heads.reporting.entries import AMONG, CHANCE, MARK, METRICS, MethodTraining
from heads.reporting.figures import Place
from heads.reporting.tables import (
    CAPTIONS,
    CHOICES,
    PAPER_CHOICES,
    PAPER_TASKS,
    RANK,
    WITHIN,
    Report,
    heading,
    with_mark,
)
from stepdiff_core.tasks.scoring import PUBLISHED

COLOURS = ("#0072b2", "#d55e00", "#009e73")  # safe for colour-blind readers (Okabe and Ito)
MARKERS = ("o", "s", "D")
PANELS: list[list[Place]] = [CAPTIONS, CHOICES, [RANK, WITHIN]]
ROW, STEP = 0.42, 0.24  # inches per method; rows between the figures of one method


def draw(report: Report) -> bytes | None:
    """Return the picture as PNG, None if no figure has a point. Hollow points are the
    supplement's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scores = {(score.method, score.place): score for score in report.scores}
    measured = {score.place for score in report.scores if score.value is not None}
    panels = [
        places for panel in PANELS if (places := [place for place in panel if place in measured])
    ]
    if not panels:
        return None
    shown = [place for panel in panels for place in panel]
    published = {place: _published(place) if report.paper else {} for place in shown}
    ours = [score.method for score in report.scores if score.place in shown]
    ours.sort(key=lambda method: method in report.controls)
    methods = list(
        dict.fromkeys([*ours, *(name for values in published.values() for name in values)])
    )
    size = (2.6 + 3.2 * len(panels), 1.5 + ROW * len(methods))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for number, (place, colour, marker) in enumerate(
            zip(panel, COLOURS, MARKERS, strict=False)
        ):
            offset = STEP * (number - (len(panel) - 1) / 2)
            point = {"color": colour, "markersize": 4.5}
            for row, method in enumerate(methods):
                score, at = scores.get((method, place)), row + offset
                if score is not None and score.value is None:
                    aside = {"transform": axis.get_yaxis_transform(), "va": "center", "fontsize": 7}
                    axis.text(0.01, at, "undefined", color=colour, **aside)
                elif score is not None:
                    if score.interval is not None:
                        axis.plot(
                            score.interval,
                            [at] * 2,
                            color=colour,
                            linewidth=1.6,
                            solid_capstyle="butt",
                        )
                    axis.plot([score.value], [at], marker, **point)
                    each = {"color": colour, "markersize": 6, "markeredgewidth": 1}
                    axis.plot(score.seeds, [at] * len(score.seeds), "|", **each)
            setting, metric = place
            label = (
                setting.variant
                if setting.task == "diffmcq"
                else METRICS[metric] + AMONG.get(metric, "")
            )
            axis.plot([], [], marker, **point, label=label)
            rows = [methods.index(name) + offset for name in published[place]]
            axis.plot(
                list(published[place].values()), rows, marker, **point, markerfacecolor="white"
            )
        _dress(axis, panel, len(methods))
    labels = [_name(name, report) for name in methods]
    axes[0][0].set_yticks(range(len(methods)), [label.replace("$", r"\$") for label in labels])
    axes[0][0].set_ylim(len(methods) - 0.5, -0.5)
    for name, label in zip(methods, axes[0][0].get_yticklabels(), strict=True):
        label.set_style("italic" if name in report.controls else "normal")
    note = "Bars: 95 % intervals, resampled by reference video. Dotted: chance. Italic: controls."
    if any(score.seeds for score in report.scores):
        note += " Small: each training; bars do not include the differences between them."
    if report.paper:
        note += " Hollow: the paper's supplement (Tables S3 and S4)."
    if any(score.seen_clips for score in report.scores):
        note += f" {MARK} trained on videos of its test clips."
    figure.supxlabel(note, fontsize=8, color="#555555")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150)
    pyplot.close(figure)
    return out.getvalue()


def _name(method: str, report: Report) -> str:
    """Return the label of a method: its name, the mark of a head that has seen test videos, and its
    regime."""
    label, regime = (
        with_mark(method, report.scores),
        report.methods.get(method, MethodTraining(method)).regime,
    )
    return label if regime in (None, "none") or method in report.controls else f"{label} · {regime}"


def _published(place: Place) -> dict[str, float]:
    for layout in (PAPER_CHOICES, PAPER_TASKS):
        if place in layout.columns:
            column = layout.columns.index(place)
            return {row.method: list(row.figures.values())[column] for row in layout.published}
    return {}


def _dress(axis: Any, panel: list[Place], methods: int) -> None:
    setting, metric = panel[0]
    title = PUBLISHED[setting.task].title + (
        f" {setting.variant}" if metric == "accuracy" and len(panel) == 1 else ""
    )
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold", pad=22)
    if len(panel) > 1:
        place = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0)}
        axis.legend(frameon=False, fontsize=8, ncols=3, handletextpad=0.1, **place)
    axis.set_xlabel("score" if setting.task == "diffcap" else heading(panel[0])[1])
    if metric in CHANCE:
        axis.axvline(CHANCE[metric], color="#888888", linewidth=1, linestyle=":", zorder=0)
    for row in range(0, methods, 2):
        axis.axhspan(row - 0.5, row + 0.5, color="#f3f3f3", zorder=-1, linewidth=0)
    axis.grid(axis="x", alpha=0.4, linewidth=0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
