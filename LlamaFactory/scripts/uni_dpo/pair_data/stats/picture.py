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
    name = textwrap.shorten(report["data"], 70, placeholder="...") or report["data"][:70]
    scored = f"{report['pairs']:,} pairs, {report['all']['scored']:,} with two scores"
    figure.suptitle(f"{_plain(name)}: {scored}", fontsize=13)
    left, right = figure.subfigures(1, 2, width_ratios=[1.7, 1])
    rows = left.subplots(len(parts), 2, sharex="col", squeeze=False)
    for axes, (name, part) in zip(rows, parts.items(), strict=True):
        axes[0].set_title(f"{_plain(name)}  ({part['pairs']:,} pairs)", loc="left", fontsize=10)
        for one, draw_one in zip(axes, (_scores, _margins), strict=True):
            one.set_ylabel("% of pairs")
            if part["scored"]:
                draw_one(one, part, report["tau_good"])
            else:
                _nothing(one, "no scores")
    found = report["all"]["histograms"]
    rows[-1][0].set_xlabel("score" + _beyond(found["chosen"], found["rejected"]))
    rows[-1][1].set_xlabel("margin: score of chosen - score of rejected" + _beyond(found["margin"]))
    if rows[0][0].patches:
        rows[0][0].legend(loc="upper left", fontsize=9)
    weights, lengths, images = right.subplots(3, 1)
    _weights(weights, report)
    _lengths(lengths, report["lengths"])
    _images(images, report["images"])
    return figure


def _scores(axes: Axes, part: dict[str, Any], tau_good: float) -> None:
    chosen, rejected = part["histograms"]["chosen"], part["histograms"]["rejected"]
    _bars(axes, chosen, part["scored"], color=CHOSEN, alpha=0.6, label="chosen")
    shares = np.array(rejected["counts"]) * 100 / part["scored"]
    axes.stairs(shares, rejected["edges"], color=REJECTED, linewidth=2, label="rejected")
    if chosen["edges"][0] <= tau_good <= chosen["edges"][-1]:
        axes.axvline(tau_good, color=LINE, linestyle="--", linewidth=1.2, label="tau_good")
    _write(axes, f"{percent(part['good'])} of chosen\nat least {tau_good:g}")


def _margins(axes: Axes, part: dict[str, Any], _: float) -> None:
    found = part["histograms"]["margin"]
    middles = np.convolve(found["edges"], [0.5, 0.5], "valid")
    _bars(axes, found, part["scored"], color=np.where(middles < 0, REJECTED, MARGIN), alpha=0.75)
    axes.axvline(0, color=LINE, linewidth=1)
    shares = (part["reversed"] / part["scored"], part["ties"] / part["scored"])
    _write(axes, "{} reversed (orange)\n{} ties".format(*map(percent, shares)))


def _beyond(*histograms: dict[str, Any]) -> str:
    """Return what to write below an axis about the values that its histograms leave out."""
    total = sum(sum(found["counts"]) + found["below"] + found["above"] for found in histograms)
    below, above = (sum(found[end] for found in histograms) for end in ("below", "above"))
    if not below and not above:
        return ""
    return f"\nnot shown: {percent(below / total)} further left, {percent(above / total)} further right"


def _weights(axes: Axes, report: dict[str, Any]) -> None:
    axes.set_title("Weight of a pair by its margin: w_qual = sigmoid(eta * margin)", loc="left", fontsize=10)
    if not report["etas"]:
        return _nothing(axes, "no scores")
    edges = report["all"]["histograms"]["margin"]["edges"]
    margins = np.linspace(edges[0], edges[-1], 400)
    lines = {report["eta"]: "this eta", report["suggested"]["eta"]: "suggested"}
    for (eta, whose), colour, style in zip(lines.items(), (MARGIN, CHOSEN), ("-", "--"), strict=False):
        if eta is not None:
            axes.plot(margins, expit(eta * margins), style, color=colour, linewidth=2, label=f"eta {eta:g} ({whose})")
    deciles = np.clip(report["all"]["margin_deciles"][1:-1], edges[0], edges[-1])
    axes.plot(deciles, expit(report["eta"] * deciles), "o", color=MARGIN, markersize=5, label="deciles of the margins")
    _cross(axes, 0.5)
    axes.set(xlabel="margin", ylabel="w_qual", ylim=(-0.03, 1.03))
    axes.legend(loc="lower right", fontsize=9)


def _lengths(axes: Axes, lengths: dict[str, Any]) -> None:
    axes.set_title("Are longer answers scored higher?", loc="left", fontsize=10)
    groups, rank = lengths["tenths"], lengths["difference_and_margin"]
    if not groups:
        return _nothing(axes, "no scores")
    places, middles = ([group[key] for group in groups] for key in ("difference", "median"))
    spread = [[abs(group["median"] - group[end]) for group in groups] for end in ("p25", "p75")]
    axes.errorbar(places, middles, yerr=spread, fmt="o-", color=MARGIN, ecolor=SPREAD, capsize=3, elinewidth=2)
    _cross(axes, 0)
    correlation = "" if rank is None else f"; Spearman {rank:+.2f}"
    _write(axes, f"chosen longer in {percent(lengths['chosen_longer'])}{correlation}", side="left")
    axes.set(
        xlabel=f"length of chosen - length of rejected ({lengths['unit']}), in tenths of pairs",
        ylabel="margin: median,\nmiddle half of pairs",
    )


def _images(axes: Axes, images: dict[str, Any]) -> None:
    axes.set_title("Tokens of an image in Qwen2-VL, estimated", loc="left", fontsize=10)
    if "histogram" not in images:
        asked = "looked_at" in images
        return _nothing(axes, "no image could be read" if asked else "images not looked at (--no-images)")
    found = images["histogram"]
    _bars(axes, found, sum(found["counts"]), color=CHOSEN, alpha=0.7)
    _write(axes, f"{images['looked_at']:,} images looked at\n{images['missing']:,} missing", side="left")
    axes.set(xlabel="tokens (28 x 28 pixels each, scaled down to 768 x 768)", ylabel="% of images")


def _bars(axes: Axes, found: dict[str, Any], total: int, **style: Any) -> None:
    edges = np.array(found["edges"])
    axes.bar(edges[:-1], np.array(found["counts"]) * 100 / total, np.diff(edges), align="edge", **style)


def _cross(axes: Axes, height: float) -> None:
    axes.axhline(height, color=LINE, linewidth=0.8, linestyle=":")
    axes.axvline(0, color=LINE, linewidth=0.8, linestyle=":")
    axes.grid(alpha=0.3)


def _write(axes: Axes, text: str, side: str = "right") -> None:
    """Write into an upper corner, over whatever is drawn there, with room above the curve for it."""
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2}
    place = 0.98 if side == "right" else 0.02
    axes.text(place, 0.94, text, transform=axes.transAxes, ha=side, va="top", fontsize=9, bbox=box)
    axes.margins(y=0.35)


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color="grey")
    axes.set(xticks=[], yticks=[])


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # which would start a formula
