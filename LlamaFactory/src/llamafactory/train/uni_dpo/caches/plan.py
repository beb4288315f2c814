"""Which caches a run uses, and what of its data they lack."""

from collections.abc import Callable
from typing import Any

from ..data.columns import REFERENCE_COLUMNS, undecoded
from ..errors import UniDPOError
from ..ranks import from_main_process
from .fingerprints import FileHashes, media_keys, moving_media_keys, pair_keys
from .images import ImageCache
from .keys import image_key, reference_key
from .reference import ReferenceCache
from .store import Store


class CachePlan:
    """The caches of one run.

    Attributes:
        reference: log-probs of the reference model; None if `uni_dpo_reference_cache` is not set.
        images: features of images; None if `uni_dpo_image_cache` is not set.
        image_limit: bytes that the images may take.
        stops: whether the run ends when the caches are complete.
        needs_reference_model: whether some pair's reference log-probs still have to be computed; all ranks agree.
    """

    def __init__(self, model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any):
        """Open the folders, before anything slow happens.

        Raises:
            UniDPOError: a folder belongs to another model, template or setting, or the run cannot use a cache.
        """
        self.reference: ReferenceCache | None = None
        self.images: ImageCache | None = None
        self.needs_reference_model = True
        self.image_limit = finetuning_args.uni_dpo_image_cache_gb * 1e9
        self.stops = getattr(finetuning_args, "stops_after_caches", False)
        self._first = training_args.main_process_first
        self._sampling_rate = model_args.audio_sampling_rate
        self._pairs: dict[str, list[str]] = {}
        if data_args.streaming:
            raise UniDPOError("Caches need `streaming: false`: remove it, or `uni_dpo_reference_cache` and the like.")
        with self._first(desc="opening caches"):
            self._open((model_args, data_args, training_args, finetuning_args))

    def _open(self, run: tuple[Any, Any, Any, Any]) -> None:
        hashes, finetuning_args = FileHashes(), run[-1]
        if folder := finetuning_args.uni_dpo_reference_cache:
            store = Store("uni_dpo_reference_cache", folder, reference_key(*run, hashes))
            self.reference = ReferenceCache(store)
        if folder := finetuning_args.uni_dpo_image_cache:
            store = Store("uni_dpo_image_cache", folder, image_key(run[0], *run[2:], hashes))
            self.images = ImageCache(store)
        hashes.save()

    def identify(self, dataset_module: dict[str, Any]) -> dict[str, Any]:
        """Name all pairs and images, and read what is stored of them.

        Args:
            dataset_module: what upstream's `get_dataset` returns.

        Returns:
            The same, with a column `image_keys` if images are cached.
        """
        with self._first(desc="naming pairs"):
            hashes = FileHashes()
            identified = map_splits(dataset_module, lambda name, split: self._identify(name, split, hashes))
            hashes.save()
        for cache in (self.reference, self.images):
            if cache is not None:
                cache.load()
        if self.reference is not None:
            self.needs_reference_model = from_main_process(self._lacks_log_probs())
        return identified

    def _identify(self, name: str, split: Any, hashes: FileHashes) -> Any:
        images = media_keys(split, "images", hashes)
        if self.reference is not None:
            moving = moving_media_keys(split, hashes, self._sampling_rate)
            media = (a + b for a, b in zip(images, moving, strict=True))
            self._pairs[name] = pair_keys(split, media)
        if self.images is None:
            return split
        # A data set that holds its images would decode every one of them with its row.
        return undecoded(split, "images").add_column("image_keys", images)

    def _lacks_log_probs(self) -> bool:
        return any(self.reference.missing(pairs) for pairs in self._pairs.values())

    def pairs_of(self, name: str) -> list[str]:
        """List the names of a split's pairs."""
        return self._pairs[name]

    def with_reference(self, name: str, split: Any) -> Any:
        """Add a split's reference log-probs as columns.

        Raises:
            UniDPOError: some are missing on this rank.
        """
        if self.reference.missing(self._pairs[name]):
            raise UniDPOError("`uni_dpo_reference_cache` has to be a folder that all ranks of all nodes share.")
        for column, values in zip(REFERENCE_COLUMNS, self.reference.columns(self._pairs[name]), strict=True):
            split = split.add_column(column, values)
        return split


def map_splits(splits: dict[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Apply `change(name, split)` to every data set; evaluation may have several."""
    return {
        name: {part: change(f"{name}/{part}", data) for part, data in split.items()}
        if isinstance(split, dict)
        else change(name, split)
        for name, split in splits.items()
    }
