"""What `check` says of images agrees with what LlamaFactory shows the model, and no file can end the check."""

import os

import bad_data
import pytest
from PIL import Image

from llamafactory.data.mm_plugin import get_mm_plugin
from pair_data.check.findings import ERROR, LEVEL
from pair_data.check.fix import corrected
from pair_data.check.picture import look_at_image
from pair_data.errors import DataError
from pair_data.pool import DIED, HUNG, WorkerPool


PLUGIN = get_mm_plugin("qwen2_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")
SIZES = {"image_max_pixels": 768 * 768, "image_min_pixels": 32 * 32}


def seen(image):
    """What training makes of an image file, as LlamaFactory opens and scales it; the model's processor decodes it."""
    image = PLUGIN._regularize_images([image], **SIZES)["images"][0]
    image.load()
    return image


def kinds(image):
    return {kind for kind, _ in look_at_image(image, "").problems}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return folder, bad_data.write_images(folder)


def test_images_that_check_calls_errors_stop_llamafactory_and_no_others_do(files):
    folder, due = files
    for name in due:
        if name in ("", "pipe.png"):  # a pipe would hang this test as it would hang training
            continue
        errors = {kind for kind in kinds(str(folder / name)) if LEVEL[kind] == ERROR}
        try:
            seen(str(folder / name))
        except Exception:
            assert errors, f"{name} stops training and passes"
        else:
            assert not errors, f"{name} is accused of {errors}, but training reads it"


def test_training_sees_rotated_transparent_and_deep_images_wrongly_and_corrected_ones_rightly(tmp_path):
    """The premise of three warnings, and of --fix-images."""
    Image.new("RGB", (120, 60)).save(tmp_path / "rotated.png", exif=bad_data.oriented(6))
    assert seen(str(tmp_path / "rotated.png")).size == (120, 60)  # lying on its side
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert seen(str(tmp_path / "clear.png")).getpixel((0, 0)) == (0, 0, 0)
    Image.new("I;16", (64, 64), 20_000).save(tmp_path / "deep.png")
    assert seen(str(tmp_path / "deep.png")).getpixel((0, 0)) == (255, 255, 255)
    right = {name: seen(corrected((tmp_path / name).read_bytes())[0]) for name in os.listdir(tmp_path)}
    assert right["rotated.png"].size == (60, 120)
    assert right["clear.png"].getpixel((0, 0)) == (255, 255, 255)
    assert right["deep.png"].getpixel((0, 0)) == (78, 78, 78)  # 20,000 of 65,535


def test_an_item_that_ends_or_hangs_its_process_costs_nothing_but_itself():
    items = [*range(5), "die", *range(5, 20), "hang", "die 2"]
    results = dict(WorkerPool(bad_data.work, 2, patience=3).map(iter(items)))
    assert results == {number: number * 2 for number in range(20)} | {"die": DIED, "hang": HUNG, "die 2": DIED}


def test_processes_that_cannot_start_are_not_blamed_on_the_items(monkeypatch):
    monkeypatch.setattr("sys.path", [])  # nothing can be imported in them
    with pytest.raises(DataError, match="cannot start"):
        list(WorkerPool(bad_data.work, 2).map([0, 1]))


def test_only_as_many_items_are_taken_as_there_is_work_for():
    taken = []
    items = (number for number in range(200) if taken.append(number) is None)
    for _ in WorkerPool(bad_data.work, 1).map(items):
        break
    assert len(taken) <= 2, "large data sets would be held in memory"
