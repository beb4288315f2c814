"""The report as a page of text, 100 columns wide."""

import textwrap
from typing import Any

from .wording import number, percent, weight


WIDTH = 100
BAR = 18  # characters of the longest bar


def page(report: dict[str, Any]) -> str:
    """Write a report down."""
    whole, lengths = report["all"], report["lengths"]
    title = (
        f"{report['data']}: {report['rows']:,} rows, {report['pairs']:,} pairs, {whole['scored']:,} of them with two "
        "scores"
    )
    sections = ["\n".join([title, *(_wrapped("! " + note, "  ") for note in report["notes"])]), _subsets(report)]
    if whole["scored"]:
        found = whole["histograms"]
        turned = f"{whole['ties']:,} ties, {whole['reversed']:,} reversed"
        sections += [
            "SCORES (share of the chosen and of the rejected answers)\n"
            + _bars([found["chosen"], found["rejected"]], whole["scored"]),
            f"MARGINS (score of the chosen answer minus that of the rejected; {turned})\n"
            + _bars([found["margin"]], whole["scored"]),
            _weights(report),
        ]
    advice = report["advice"] or ["Without scores nothing can be said about eta and tau_good."]
    sections += [_lengths(lengths), _images(report["images"])]
    sections.append("\n".join(["WHAT THIS MEANS", *(_wrapped("- " + said, "  ") for said in advice)]))
    return "\n\n".join(sections) + "\n"


def look(report: dict[str, Any]) -> str:
    """Write down the parts of a report that are about scores and weights."""
    if not report["all"]["scored"]:
        return "\n".join(_wrapped("! " + note, "  ") for note in report["notes"])
    whole = report["all"]
    turned = f"MARGINS: {whole['ties']:,} ties, {whole['reversed']:,} reversed"
    said = ("- " + one for one in report["advice"])
    notes = ("! " + one for one in report["notes"])
    meaning = "\n".join(["WHAT THIS MEANS", *(_wrapped(line, "  ") for line in (*notes, *said))])
    return "\n\n".join([_subsets(report), f"{turned}\n{_weights(report)}", meaning]) + "\n"


def _subsets(report: dict[str, Any]) -> str:
    rows = [
        ["", "", "chosen", "reject.", "margin", "margin", "margin", "", "", "chosen >=", f"eta {report['eta']:.3g}"],
        ["", "pairs", "50 %", "50 %", "10 %", "50 %", "90 %", "ties", "reversed", f"{report['tau_good']:g}", "w_qual"],
    ]
    several = list(report["subsets"].items()) if len(report["subsets"]) > 1 else []
    for name, part in [*several, ("all", report["all"] | {"pairs": report["pairs"]})]:
        rows.append([_short(name), f"{part['pairs']:,}"])
        if not part["scored"]:
            rows[-1] += ["no scores", *[""] * 8]
            continue
        rows[-1] += [number(part[side]["median"]) for side in ("chosen", "rejected")]
        rows[-1] += [number(part["margin"][key]) for key in ("p10", "median", "p90")]
        rows[-1] += [percent(part[key] / part["scored"]) for key in ("ties", "reversed")]
        rows[-1] += [percent(part["good"]), weight(part["w_qual"]["mean"])]
    return f"SUBSETS, by {report['by']}"[:WIDTH] + "\n" + _table(rows, " ")


def _bars(histograms: list[dict[str, Any]], total: int) -> str:
    """Draw histograms of the same bins beside each other; an overflow bin is left out where it holds nothing."""
    edges = [f"{edge:.5g}" for edge in histograms[0]["edges"]]
    if len(set(edges)) < len(edges):
        edges = [f"{edge:.10g}" for edge in histograms[0]["edges"]]
    labels = [f"{low:>12} to {high:>12}" for low, high in zip(edges, edges[1:], strict=False)]
    labels = [f"{'below':>15} {edges[0]:>12}", *labels, f"{'above':>15} {edges[-1]:>12}"]
    rows = [[f"{label:30}"] for label in labels]
    for found in histograms:
        counts = [found["below"], *found["counts"], found["above"]]
        for row, count in zip(rows, counts, strict=True):
            bar = f"{percent(count / total):>8} {'#' * -(-BAR * count // max(counts))}"
            row.append(f"{bar:34}")
    ends = [any(found[end] for found in histograms) for end in ("below", "above")]
    lines = ["".join(row).rstrip() for row in rows[not ends[0] : len(rows) - (not ends[1])]]
    return "\n".join(lines)


def _weights(report: dict[str, Any]) -> str:
    deciles = [["pairs up to", *(f"{10 * tenth} %" for tenth in range(11))]]
    deciles.append(["margin", *map(number, report["all"]["margin_deciles"])])
    wholes = [["", "mean", "spread", "effective", "within .49-.51", "beyond .01/.99"]]
    for found in report["etas"]:
        name = f"eta {found['eta']:.3g}"
        deciles.append([name, *map(weight, found["at_deciles"])])
        shares = [percent(found[key]) for key in ("effective", "about_half", "saturated")]
        mark = " *" if found["eta"] == report["eta"] else ""
        wholes.append([name + mark, weight(found["mean"]), f"{found['std']:.3f}", *shares])
    return (
        f"W_QUAL = sigmoid(eta * margin) at the deciles of the margin\n{_table(deciles)}\n\n{_table(wholes)}\n"
        "* as asked for. Effective: (sum w)^2 / sum w^2, as a share of the pairs; 100 % if all weigh alike."
    )


def _lengths(lengths: dict[str, Any]) -> str:
    rows = [["", "10 %", "50 %", "90 %", "longest", "mean"]]
    for side in ("chosen", "rejected"):
        kinds = (f"{lengths[side][key]:,.0f}" for key in ("p10", "median", "p90", "most"))
        rows.append([side, *kinds, f"{lengths[side]['mean']:,.1f}"])
    parts = [f"{_short(name)} {percent(share)}" for name, share in lengths["chosen_longer_by_subset"].items()]
    ranks = (lengths["difference_and_margin"], lengths["length_and_score"])
    with_margin, with_score = ("-" if rank is None else f"{rank:+.3f}" for rank in ranks)
    each = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    said = [
        f"The chosen answer is the longer one in {percent(lengths['chosen_longer'])} of the pairs{each}; both have "
        f"the same length in {percent(lengths['same_length'])}.",
        f"Spearman's correlation of the difference in length with the margin: {with_margin}; of length with score: "
        f"{with_score}.",
        lengths["meaning"],
    ]
    return "\n".join([f"LENGTHS of answers, in {lengths['unit']}", _table(rows), *map(_wrapped, said)])


def _images(images: dict[str, Any]) -> str:
    lines = [
        "IMAGES",
        f"{images['rows_without']:,} pairs without an image, {images['rows_with_several']:,} with more than one.",
    ]
    if "looked_at" not in images:
        lines.append("Not looked at (--no-images).")
    elif images["references"]:
        looked_at = images["looked_at"]
        all_of = looked_at == images["references"]
        which = "all" if all_of else f"a random sample (the same every time) of {looked_at:,}"
        lines.append(
            _wrapped(
                f"{images['references']:,} references to images; headers of {which} read: {images['missing']:,} "
                f"missing, {images['unreadable']:,} unreadable. `data.py check` looks at every one."
            )
        )
    if "width" in images:
        rows = [["", "smallest", "10 %", "50 %", "90 %", "largest"]]
        for name, unit in (("width", "width, px"), ("height", "height, px"), ("tokens", "tokens *")):
            rows.append([unit, *(f"{images[name][key]:,.0f}" for key in ("least", "p10", "median", "p90", "most"))])
        larger = f"{percent(images['scaled_down'])} are larger and are scaled down."
        lines += [_table(rows), _wrapped(f"* estimated for Qwen2-VL at up to 768 x 768 pixels; {larger}")]
    return "\n".join(lines)


def _table(rows: list[list[str]], gap: str = "  ") -> str:
    """Align cells: names to the left, all else to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (gap.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _short(name: str) -> str:
    return name if len(name) < 16 else name[:13] + ".."


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
