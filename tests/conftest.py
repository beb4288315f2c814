"""What most tests stand on: a quiet environment, a tiny Qwen2-VL and a small preference data set."""

import importlib.util
import os
import tempfile


# Before anything imports torch or datasets: one thread (runs share the cores), no hub, no device, no old caches.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["UNI_DPO_SELF_CHECK"] = "always"  # whatever runs on this machine have passed
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="uni-dpo-tests-")

import pytest  # noqa: E402
import torch  # noqa: E402
from forked import host, pytest_collection_finish, pytest_sessionfinish  # noqa: E402, F401
from pairs import make_rows, write_dataset  # noqa: E402

from demo.model import build  # noqa: E402


if importlib.util.find_spec("llamafactory"):  # the environment of vLLM has none
    import llamafactory  # noqa: F401  before trl: else transformers 5.5 looks for packages that are not there

pytest_plugins = ["installing", "figures"]

# Modules that take longest start first, or one process would still be at them when the others have nothing left.
SLOW = (
    *("families", "eval_families", "examples", "upstream_versions", "parallel_matrix", "eval_runner"),
    *("summarize_eval", "data_end_to_end", "pref_forward", "security_network", "install_failures"),
    *("engine_parity", "demo_benchmarks"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow modules before the others, each in its order."""
    ranks = {f"test_{name}": rank for rank, name in enumerate(SLOW)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(autouse=True)
def _same_environment():
    """Undo what a test does to the process: a run leaves its precision in the environment for the next one.

    VLMEvalKit switches gradients off when it is imported.
    """
    before, gradients = dict(os.environ), torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(gradients)
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A random Qwen2-VL of about 0.2 million parameters."""
    folder = tmp_path_factory.mktemp("model")
    build(folder, preset="test")
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Rows of a data set whose pictures are in `pair_data`; copy before changing."""
    return make_rows(tmp_path_factory.getbasetemp() / "pairs")


@pytest.fixture(scope="session")
def pair_data(tmp_path_factory, rows):
    """The folder of a good data set called `pairs`."""
    return write_dataset(tmp_path_factory.getbasetemp() / "pairs", rows)


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A video of 16 frames, 4 a second, whose colour changes."""
    import av
    from PIL import Image

    path = tmp_path_factory.mktemp("video") / "colours.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height = 112, 56
        for i in range(16):
            frame = av.VideoFrame.from_image(Image.new("RGB", (112, 56), (16 * i, 80, 250 - 10 * i)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
