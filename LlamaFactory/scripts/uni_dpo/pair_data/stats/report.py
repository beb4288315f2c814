"""From a data set to the report that is shown."""

from typing import Any

from ..sources import Source
from .advice import PUBLISHED, about_eta, about_tau_good, meaning_of_lengths, notes, suggest_eta, suggest_tau_good
from .gather import gather
from .images import sizes_of
from .measures import measure, measure_images, quality_weights, with_scores


def describe(
    source: Source,
    by: str | None = None,
    eta: float = PUBLISHED["eta"],
    tau_good: float = PUBLISHED["tau_good"],
    model: str | None = None,
    with_images: bool = True,
) -> dict[str, Any]:
    """Return all that `page` and `picture` show, ready for JSON; for the arguments see `gather` and `measure`."""
    found = gather(source, by, model, with_images)
    report = measure(found, eta, tau_good)
    if with_images:
        report["images"] |= measure_images(found.images.seen, sizes_of(found.images, source))
    margins, chosen = (with_scores(found.pairs)[name] for name in ("margin", "chosen"))
    suggested = suggest_eta(report["all"]["median_positive_margin"])
    report["suggested"] = {"eta": suggested, "tau_good": suggest_tau_good(chosen)}
    etas = sorted({suggested, PUBLISHED["eta"], eta / 2, eta, 2 * eta} - {None})
    report["etas"] = [quality_weights(margins, value) for value in etas] if len(margins) else []
    report["notes"] = notes(report)
    report["lengths"]["meaning"] = meaning_of_lengths(report["lengths"])
    report["advice"] = [*about_eta(report, margins), *about_tau_good(report, chosen)] if len(margins) else []
    return report
