"""From a data set to the report that is shown."""

from typing import Any

from ..sources import Source
from .advice import add_advice
from .gather import gather
from .images import measure as measure_images
from .measures import measure


def describe(
    source: Source,
    by: str | None = None,
    eta: float = 0.7,
    tau_good: float = 2.5,
    model: str | None = None,
    with_images: bool = True,
) -> dict[str, Any]:
    """Return all that `page` and `picture` show, ready for JSON; for the arguments see `gather` and `measure`.

    Raises:
        DataError: the data cannot be read, or the options do not fit them.
    """
    found = gather(source, by, model, with_images)
    report = measure(found, eta, tau_good)
    if with_images:
        report["images"] |= measure_images(found.images, source)
    add_advice(report, found)
    return report
