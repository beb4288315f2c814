"""The report as one picture: scores and margins of each subset, w_qual, lengths and images."""

import textwrap
import warnings
from typing import IO, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import expit

from .wording import percent


# Colours that colour-blind people tell apart: Okabe and Ito (2008), Color Universal Design.
CHOSEN, REJECTED, MARGIN, SPREAD, LINE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#333333"


def draw(report: dict[str, Any], file: IO[bytes]) -> None:
    """Draw a report as PNG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names may be in any script, fonts are not
        picture(report).savefig(file, format="png", dpi=110)


def picture(report: dict[str, Any]) -> Figure:
    """Return the picture of a report."""
    parts = report["subsets"]
    figure = Figure(figsize=(16, max(9.0, 1.2 + 1.75 * len(parts))), layout="constrained")
    figure.suptitle(_title(report), fontsize=13)
    left, right = figure.subfigures(1, 2, width_ratios=[1.7, 1])
    rows = left.subplots(len(parts), 2, sharex="col", squeeze=False)
    for axes, (name, part) in zip(rows, parts.items(), strict=True):
        _scores(axes[0], name, part, report["tau_good"])
        _margins(axes[1], part)
    _label_columns(rows, report)
    weights, lengths, images = right.subplots(3, 1)
    _weights(weights, report)
    _lengths(lengths, report["lengths"])
    _images(images, report["images"])
    return figure


def _title(report: dict[str, Any]) -> str:
    name = textwrap.shorten(report["data"], 70, placeholder="...") or report["data"][:70]
    return f"{_plain(name)}: {report['pairs']:,} pairs, {report['all']['scored']:,} with two scores"


def _scores(axes: Axes, name: str, part: dict[str, Any], tau_good: float) -> None:
    axes.set_title(f"{_plain(name)}  ({part['pairs']:,} pairs)", loc="left", fontsize=10)
    if not part["scored"]:
        return _nothing(axes, "no scores")
    _bars(axes, part["histograms"]["chosen"], part["scored"], color=CHOSEN, alpha=0.6, label="chosen")
    outline = part["histograms"]["rejected"]
    shares = np.array(outline["counts"]) * 100 / part["scored"]
    axes.stairs(shares, outline["edges"], color=REJECTED, linewidth=2, label="rejected")
    low, high = (part["histograms"]["chosen"]["edges"][end] for end in (0, -1))
    if low <= tau_good <= high:
        axes.axvline(tau_good, color=LINE, linestyle="--", linewidth=1.2, label="tau_good")
    axes.margins(y=0.35)  # room for what is written
    _write(axes, f"{percent(part['good'])} of chosen\nat least {tau_good:g}")


def _margins(axes: Axes, part: dict[str, Any]) -> None:
    if not part["scored"]:
        return _nothing(axes, "no scores")
    found = part["histograms"]["margin"]
    middles = np.convolve(found["edges"], [0.5, 0.5], "valid")
    colours = [REJECTED if middle < 0 else MARGIN for middle in middles]
    _bars(axes, found, part["scored"], color=colours, alpha=0.75)
    axes.axvline(0, color=LINE, linewidth=1)
    axes.margins(y=0.35)
    shares = (part["reversed"] / part["scored"], part["ties"] / part["scored"])
    _write(axes, "{} reversed (orange)\n{} ties".format(*map(percent, shares)))


def _label_columns(rows: np.ndarray, report: dict[str, Any]) -> None:
    whole = report["all"]
    for column, side, what in ((0, "chosen", "score"), (1, "margin", "margin: score of chosen - score of rejected")):
        last = rows[-1][column]
        outside = [whole["histograms"][kind] for kind in ((side, "rejected") if column == 0 else (side,))]
        below, above = (sum(found[end] for found in outside) for end in ("below", "above"))
        beyond = ""
        if below or above:
            shares = (percent(count / (whole["scored"] * len(outside))) for count in (below, above))
            beyond = "\nnot shown: {} further left, {} further right".format(*shares)
        last.set_xlabel(what + beyond)
        for axes in rows[:, column]:
            axes.set_ylabel("% of pairs")
    if rows[0][0].patches:
        rows[0][0].legend(loc="upper left", fontsize=9)


def _weights(axes: Axes, report: dict[str, Any]) -> None:
    axes.set_title("Weight of a pair by its margin: w_qual = sigmoid(eta * margin)", loc="left", fontsize=10)
    if not report["etas"]:
        return _nothing(axes, "no scores")
    whole = report["all"]
    edges = whole["histograms"]["margin"]["edges"]
    margins = np.linspace(edges[0], edges[-1], 400)
    lines = {report["eta"]: "this eta", report["suggested"]["eta"]: "suggested"}
    for (eta, whose), colour, style in zip(lines.items(), (MARGIN, CHOSEN), ("-", "--"), strict=False):
        if eta is not None:
            axes.plot(margins, expit(eta * margins), style, color=colour, linewidth=2, label=f"eta {eta:g} ({whose})")
    deciles = np.clip(whole["margin_deciles"][1:-1], edges[0], edges[-1])
    axes.plot(deciles, expit(report["eta"] * deciles), "o", color=MARGIN, markersize=5, label="deciles of the margins")
    axes.axhline(0.5, color=LINE, linewidth=0.8, linestyle=":")
    axes.axvline(0, color=LINE, linewidth=0.8, linestyle=":")
    axes.set(xlabel="margin", ylabel="w_qual", ylim=(-0.03, 1.03))
    axes.legend(loc="lower right", fontsize=9)
    axes.grid(alpha=0.3)


def _lengths(axes: Axes, lengths: dict[str, Any]) -> None:
    axes.set_title("Are longer answers scored higher?", loc="left", fontsize=10)
    groups = lengths["tenths"]
    if not groups:
        return _nothing(axes, "no scores")
    places = [group["difference"] for group in groups]
    middles = [group["median"] for group in groups]
    spread = [[abs(group["median"] - group[end]) for group in groups] for end in ("p25", "p75")]
    axes.errorbar(places, middles, yerr=spread, fmt="o-", color=MARGIN, ecolor=SPREAD, capsize=3, elinewidth=2)
    axes.axhline(0, color=LINE, linewidth=0.8, linestyle=":")
    axes.axvline(0, color=LINE, linewidth=0.8, linestyle=":")
    rank = lengths["difference_and_margin"]
    correlation = "" if rank is None else f"; Spearman {rank:+.2f}"
    _write(axes, f"chosen longer in {percent(lengths['chosen_longer'])}{correlation}", side="left")
    axes.set(
        xlabel=f"length of chosen - length of rejected ({lengths['unit']}), in tenths of pairs",
        ylabel="margin: median,\nmiddle half of pairs",
    )
    axes.margins(y=0.3)
    axes.grid(alpha=0.3)


def _images(axes: Axes, images: dict[str, Any]) -> None:
    axes.set_title("Tokens of an image in Qwen2-VL, estimated", loc="left", fontsize=10)
    if "histogram" not in images:
        asked = "looked_at" in images
        return _nothing(axes, "no image could be read" if asked else "images not looked at (--no-images)")
    found = images["histogram"] | {"below": 0, "above": 0}
    _bars(axes, found, sum(found["counts"]), color=CHOSEN, alpha=0.7)
    _write(axes, f"{images['looked_at']:,} images looked at\n{images['missing']:,} missing", side="left")
    axes.set(xlabel="tokens (28 x 28 pixels each, scaled down to 768 x 768)", ylabel="% of images")
    axes.margins(y=0.3)


def _bars(axes: Axes, found: dict[str, Any], total: int, **style: Any) -> None:
    edges = np.array(found["edges"])
    axes.bar(edges[:-1], np.array(found["counts"]) * 100 / total, np.diff(edges), align="edge", **style)


def _write(axes: Axes, text: str, side: str = "right") -> None:
    """Write into an upper corner, over whatever is drawn there."""
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2}
    place = 0.98 if side == "right" else 0.02
    axes.text(place, 0.94, text, transform=axes.transAxes, ha=side, va="top", fontsize=9, bbox=box)


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="grey")
    axes.set(xticks=[], yticks=[])


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # which would start a formula
