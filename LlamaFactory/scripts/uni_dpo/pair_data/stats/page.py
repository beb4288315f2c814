"""The report as a page of text, 100 columns wide."""

import textwrap
from collections.abc import Iterator
from typing import Any

from .histograms import wide
from .wording import number, percent, weight


WIDTH = 100
BAR = 18  # characters of the longest bar


def page(report: dict[str, Any]) -> str:
    """Write a report down."""
    sections = [_title(report), _subsets(report)]
    if report["all"]["scored"]:
        sections += [_scores(report), _margins(report), _weights(report)]
    sections += [_lengths(report["lengths"]), _images(report["images"]), _advice(report)]
    return "\n\n".join("\n".join(line.rstrip() for line in section) for section in sections) + "\n"


def _title(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{report['data']}: {report['rows']:,} rows, {report['pairs']:,} pairs, "
        f"{report['all']['scored']:,} of them with two scores"
    )
    for note in report["notes"]:
        yield from _wrapped("! " + note, "  ")


def _subsets(report: dict[str, Any]) -> Iterator[str]:
    eta, tau_good = f"eta {report['eta']:g}", f"{report['tau_good']:g}"
    yield f"SUBSETS, by {report['by']}"[:WIDTH]
    yield f"{'':24}{'chosen':>8}{'reject.':>8}{'------- margin ------':>22}{'':17}{'chosen >=':>11}{eta:>10}"
    yield (
        f"{'':16}{'pairs':>8}{'50 %':>8}{'50 %':>8}{'10 %':>8}{'50 %':>7}{'90 %':>7}"
        f"{'ties':>8}{'reversed':>9}{tau_good:>11}{'w_qual':>10}"
    )
    several = list(report["subsets"].items()) if len(report["subsets"]) > 1 else []
    for name, part in [*several, ("all", report["all"] | {"pairs": report["pairs"]})]:
        line = f"{_short(name):16}{part['pairs']:>8,}"
        yield line + (_subset(part) if part["scored"] else "  no scores")


def _subset(part: dict[str, Any]) -> str:
    middles = "".join(f"{number(part[side]['median']):>8}" for side in ("chosen", "rejected"))
    margins = " " + "".join(f"{number(part['margin'][key]):>7}" for key in ("p10", "median", "p90"))
    ties, turned = (percent(part[key] / part["scored"]) for key in ("ties", "reversed"))
    return f"{middles}{margins}{ties:>8}{turned:>9}{percent(part['good']):>11}{weight(part['w_qual']['mean']):>10}"


def _scores(report: dict[str, Any]) -> Iterator[str]:
    yield "SCORES (share of the chosen and of the rejected answers)"
    chosen, rejected = (wide(report["all"]["histograms"][side]) for side in ("chosen", "rejected"))
    columns = [_bars(found, report["all"]["scored"]) for found in (chosen, rejected)]
    for label, left, right in zip(_ranges(chosen, rejected), *columns, strict=True):
        if label:
            yield f"{label:30}{left:34}{right}"


def _margins(report: dict[str, Any]) -> Iterator[str]:
    whole = report["all"]
    counts = f"{whole['ties']:,} ties, {whole['reversed']:,} reversed"
    yield f"MARGINS (score of the chosen answer minus that of the rejected; {counts})"
    found = wide(whole["histograms"]["margin"])
    for label, bar in zip(_ranges(found), _bars(found, whole["scored"]), strict=True):
        if label:
            yield f"{label:30}{bar}"


def _weights(report: dict[str, Any]) -> Iterator[str]:
    whole = report["all"]
    yield "W_QUAL = sigmoid(eta * margin) at the deciles of the margin"
    yield f"{'pairs up to':14}" + "".join(f"{f'{10 * tenth} %':>7}" for tenth in range(11))
    yield f"{'margin':14}" + "".join(f"{number(margin):>7}" for margin in whole["margin_deciles"])
    for found in report["etas"]:
        row = "".join(f"{weight(value):>7}" for value in found["at_deciles"])
        yield f"{_eta(found):14}{row}"
    yield ""
    names = ("mean", "spread", "effective", "within .49-.51", "beyond .01/.99")
    yield f"{'':14}" + "".join(f"{name:>16}" for name in names)
    for found in report["etas"]:
        cells = [weight(found["mean"]), f"{found['std']:.3f}"]
        cells += [percent(found[key]) for key in ("effective", "about_half", "saturated")]
        mark = " *" if found["eta"] == report["eta"] else ""
        yield f"{_eta(found) + mark:14}" + "".join(f"{cell:>16}" for cell in cells)
    yield "* as asked for. Effective: (sum w)^2 / sum w^2, as a share of the pairs; 100 % if all weigh alike."


def _eta(found: dict[str, Any]) -> str:
    return f"eta {found['eta']:.3g}"


def _lengths(lengths: dict[str, Any]) -> Iterator[str]:
    yield f"LENGTHS of answers, in {lengths['unit']}"
    for side in ("chosen", "rejected"):
        kinds = (("10 %", "p10"), ("50 %", "median"), ("90 %", "p90"), ("longest", "most"))
        cells = "".join(f"{name:>10} {lengths[side][key]:>8,.0f}" for name, key in kinds)
        yield f"{side:10}{cells}     mean {lengths[side]['mean']:,.1f}"
    parts = lengths["chosen_longer_by_subset"]
    each = (
        f" ({', '.join(f'{_short(name)} {percent(share)}' for name, share in parts.items())})"
        if len(parts) > 1
        else ""
    )
    yield from _wrapped(
        f"The chosen answer is the longer one in {percent(lengths['chosen_longer'])} of the pairs{each}; both have "
        f"the same length in {percent(lengths['same_length'])}."
    )
    correlations = (lengths["difference_and_margin"], lengths["length_and_score"])
    yield (
        "Spearman's correlation of the difference in length with the margin: {}; of length with score: {}.".format(
            *("-" if value is None else f"{value:+.3f}" for value in correlations)
        )
    )
    yield from _wrapped(lengths["meaning"])


def _images(images: dict[str, Any]) -> Iterator[str]:
    yield "IMAGES"
    yield f"{images['rows_without']:,} pairs without an image, {images['rows_with_several']:,} with more than one."
    if "looked_at" not in images:
        yield "Not looked at (--no-images)."
    elif images["references"]:
        all_of = images["looked_at"] == images["references"]
        which = "all" if all_of else f"a random sample (the same every time) of {images['looked_at']:,}"
        yield from _wrapped(
            f"{images['references']:,} references to images; headers of {which} read: {images['missing']:,} missing, "
            f"{images['unreadable']:,} unreadable. `data.py check` looks at every one."
        )
    if "width" in images:
        kinds = (("smallest", "least"), ("10 %", "p10"), ("50 %", "median"), ("90 %", "p90"), ("largest", "most"))
        for name in ("width", "height", "tokens"):
            unit = "tokens *" if name == "tokens" else f"{name}, px"
            yield f"{unit:12}" + "".join(f"{kind:>9} {images[name][key]:>7,.0f}" for kind, key in kinds)
        yield from _wrapped(
            f"* estimated for Qwen2-VL at up to 768 x 768 pixels; {percent(images['scaled_down'])} are larger and are "
            "scaled down."
        )


def _advice(report: dict[str, Any]) -> Iterator[str]:
    yield "WHAT THIS MEANS"
    for sentence in report["advice"] or ["Without scores nothing can be said about eta and tau_good."]:
        yield from _wrapped("- " + sentence, "  ")


def _short(name: str) -> str:
    return name if len(name) < 16 else name[:13] + ".."


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _ranges(*histograms: dict[str, Any]) -> list[str]:
    """Return labels of the bins, the overflow bins first and last; empty where an overflow bin holds nothing."""
    edges = histograms[0]["edges"]
    below = any(found["below"] for found in histograms)
    above = any(found["above"] for found in histograms)
    ends = [f"{edge:.5g}" for edge in edges]
    if len(set(ends)) < len(ends):
        ends = [f"{edge:.10g}" for edge in edges]
    inside = [f"{low:>12} to {high:>12}" for low, high in zip(ends, ends[1:], strict=False)]
    return [f"{'below':>15} {ends[0]:>12}" if below else "", *inside, f"{'above':>15} {ends[-1]:>12}" if above else ""]


def _bars(found: dict[str, Any], total: int) -> list[str]:
    counts = [found["below"], *found["counts"], found["above"]]
    most = max(counts)
    return [f"{percent(count / total):>8} {'#' * -(-BAR * count // most)}" for count in counts]
