"""The published pairs from ModelScope, for where the other hub cannot be reached."""

import json
import os
import shutil
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from ..errors import DataError


REPOSITORY = "pspdada/Uni-DPO"
LONGEST_LIST = 10 << 20  # bytes of a list of files
TIMEOUT = 30  # seconds


def describe(name: str) -> tuple[str, int, str]:
    """Ask for a file's size and SHA-256.

    Returns:
        Name, bytes, checksum.

    Raises:
        DataError: there is no network, or no such file.
    """
    query = urlencode({"Revision": "master", "Recursive": "True", "PageNumber": 1, "PageSize": 200})
    try:
        with urlopen(_address(f"repo/tree?{query}"), timeout=TIMEOUT) as answer:
            data = json.loads(answer.read(LONGEST_LIST))["Data"]
        files = {file["Path"]: file for file in (data["Files"] if isinstance(data, dict) else data)}
        return name, int(files[name]["Size"]), str(files[name]["Sha256"])
    except KeyError as error:
        raise DataError(f"ModelScope's {REPOSITORY} has no {error}") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"ModelScope cannot be reached from here ({error})") from error


def download(name: str, folder: Path, size: int) -> Path:
    """Download a file, going on where an earlier attempt stopped.

    Args:
        name: of the file.
        folder: where it goes.
        size: its bytes.

    Returns:
        Its place; its content is for the caller to check.

    Raises:
        OSError: the connection broke.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if path.is_file():
        return path
    part = path.with_name(f".{name}.part")
    have = part.stat().st_size if part.is_file() else 0
    if have < size:
        wanted = Request(_address("repo?" + urlencode({"Revision": "master", "FilePath": name})))
        wanted.add_header("Range", f"bytes={have}-")
        with urlopen(wanted, timeout=TIMEOUT) as answer, part.open("ab" if answer.status == 206 else "wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
    if part.stat().st_size < size:
        raise ConnectionError(f"it ended after {part.stat().st_size:,} of {size:,} bytes")
    os.replace(part, path)
    return path


def _address(rest: str) -> str:
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or f"https://{domain}"
    return f"{endpoint}/api/v1/datasets/{REPOSITORY}/{rest}"
