"""A copy of a data set without what was found: rows with errors left out, and repaired what needs no guess."""

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from PIL import Image, ImageOps

from ..sources import listed
from ..writing import whole_file, write_rows
from .findings import DROPPED
from .picture import is_deep, resolve
from .plan import Checked


FIXABLE = {"image-rotated", "image-transparent", "image-deep", "image-animated"}
QUALITY = 95  # of JPEGs: hardly to be told from the original


class Fixer:
    """Writes the cleaned copy of the first data set of a check."""

    def __init__(self, checked: Checked, images: Path | None, progress: bool):
        """Prepare to fix.

        Args:
            checked: what was found.
            images: folder for corrected copies of images, or None to leave images as they are.
            progress: whether to show a bar.
        """
        self.checked, self.images, self.progress = checked, images, progress
        self.source, self.counts = checked.found.sources[0], checked.found.counts
        self.dropped = checked.found.rows(0, DROPPED)
        files = checked.types[0]
        mixed = {place[0] for types in files for place in types.mixed()}
        self.listed = self.source.columns.get("images") in mixed
        self.removed = sorted(mixed - set(self.source.columns.values()))
        self.columns = dict.fromkeys(name for types in files for name in types.columns if name not in self.removed)
        self.repaired: Counter[str] = Counter()
        self.corrected: dict[str, str] = {}  # paths of images that are written already

    def write(self, output: Path) -> str:
        """Write the copy, and say what became of the rows."""
        kept = write_rows(output, self._rows())
        lines = [f"{output}: {kept:,} rows kept, {len(self.dropped):,} left out"]
        lines += [f"  left out, {kind}: {n:,}" for kind, n in Counter(self.dropped.values()).most_common()]
        if len(self.dropped) > kept:
            lines.append(self._warning(kept))
        unused = "left out: values of several types, and training does not use it"
        lines += [f'  column "{name}" {unused}' for name in self.removed]
        return "\n".join([*lines, *(f"  {what}: {count:,}" for what, count in self.repaired.items())])

    def _warning(self, kept: int) -> str:
        lost, uncounted = len(self.dropped), Counter(self.dropped.values())["image-count"]
        warning = f"Warning: {lost:,} of {lost + kept:,} rows are lost, more than half."
        if not uncounted:
            return warning
        advice = "data.py convert puts <image> in where there is none"
        return f"{warning} {uncounted:,} of them have another number of <image> than of images: {advice}."

    def _rows(self) -> Iterator[dict[str, Any]]:
        first = self._first_with_image() if self.counts["images-late"] else None
        if first is not None:
            self.repaired["first row with an image moved to the front"] = 1
            yield next(self._repair(row, number) for number, row in self._kept() if number == first)
        for number, row in self._kept(self.source.name if self.progress else ""):
            if number != first:
                yield self._repair(row, number)

    def _kept(self, progress: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
        return ((n, row) for n, row in enumerate(self.source.values(progress)) if n not in self.dropped)

    def _first_with_image(self) -> int | None:
        shown = "SELECT row FROM shown JOIN media USING (number) WHERE source = 0 AND use = 'images' ORDER BY row"
        return next((row for (row,) in self.checked.found.db.execute(shown) if row not in self.dropped), None)

    def _repair(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        row = {name: value for name, value in row.items() if name not in self.removed}
        if self.counts["column-late"]:
            row = dict.fromkeys(self.columns) | row
        for side in ("score_chosen", "score_rejected") if self.checked.plan.scored else ():
            name = self.source.columns[side]
            if isinstance(row[name], str):
                self.repaired["scores written as text made numbers"] += 1
            row[name] = float(row[name])
        name = self.source.columns.get("images")
        if self.listed and row.get(name) is not None and not isinstance(row[name], list):
            self.repaired["single images put into lists"] += 1
            row[name] = [row[name]]
        faults = self.checked.media.faults_of(0, number) if self.images and FIXABLE & self.counts.keys() else []
        if any(FIXABLE & kinds for kinds in faults):
            self.repaired["rows with corrected images"] += 1
            pairs = zip(listed(row[name]), faults, strict=True)
            changed = [self._correct(image) if FIXABLE & kinds else image for image, kinds in pairs]
            row[name] = changed if isinstance(row[name], list) else changed[0]
        return row

    def _correct(self, image: Any) -> Any:
        """Return what stands for an image in the corrected row: a path for a path, bytes for bytes."""
        if isinstance(image, str) and image in self.corrected:
            return self.corrected[image]
        found = resolve(image, str(self.source.media_dir))
        data, suffix = corrected(found if isinstance(found, bytes) else Path(found).read_bytes())
        if isinstance(image, bytes):
            return data
        if isinstance(image, dict) and image.get("bytes") is not None:
            return image | {"bytes": data}
        path = self.images / f"{Path(found).stem}-{xxhash.xxh64_hexdigest(data)}{suffix}"
        with whole_file(path, "wb") as file:
            file.write(data)
        if isinstance(image, dict):
            return image | {"path": str(path.resolve())}
        self.corrected[image] = str(path.resolve())
        return self.corrected[image]


def corrected(data: bytes) -> tuple[bytes, str]:
    """Turn an image upright, in 8 bits a channel, its first frame on white.

    Args:
        data: the content of an image file that can be decoded.

    Returns:
        The content of a JPEG if it was one, otherwise of a PNG, and the suffix for its name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        is_jpeg = image.format in ("JPEG", "MPO")
        image = ImageOps.exif_transpose(image)
    if is_deep(image):  # whole numbers from 16 bits, which is what files hold; fractions from their own range
        values = np.asarray(image, dtype=np.float64)
        lowest, highest = (values.min(), values.max()) if image.mode == "F" else (0, 65535)
        values = (values - lowest) / max(highest - lowest, 1e-12) * 255
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    buffer = io.BytesIO()
    if is_jpeg:
        image.convert("RGB").save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    else:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue(), ".jpg" if is_jpeg else ".png"
