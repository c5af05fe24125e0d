"""Downloads: from URLs with resume, from the Hugging Face hub through its own library."""

import hashlib
import logging
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

log = logging.getLogger(__name__)

HUB = "hf://"
#: The hub's address, or that of a mirror (``HF_ENDPOINT``).
HUB_ENDPOINT = constants.ENDPOINT
#: What a folder of the hub needs for a UNet2DModel, in the root or below ``unet``.
FOLDER_FILES = ("*config.json", "model_index.json", "*.safetensors")
#: The same where a repository has no safetensors.
PICKLED_FILES = ("*config.json", "model_index.json", "*diffusion_pytorch_model.bin")
#: What libraries raise on a server, a connection or a file that is not there.
FETCH_ERRORS = (OSError, EntryNotFoundError, ValueError)

_CHUNK = 2**16  # what a dropped connection may lose
#: Attempts at a dropped connection; each goes on where the last one stopped.
_ATTEMPTS = 5
_TIMEOUT = (10, 60)  # seconds to connect, and between two packets


def hash_file(path: Path) -> str:
    """sha256 of a file in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_place(place: str, target: Path, sha256: str | None = None) -> None:
    """One file from one place, whole or not at all.

    Args:
        place: a URL, or ``hf://owner/repository[@revision]/file``.
        target: where it shall be; what was fetched of it stays beside it as ``.part`` and is gone on with.
        sha256: of the whole file in hex digits; ``None`` where none is known.

    Raises:
        OSError: it cannot be fetched or written, or HF_HUB_OFFLINE forbids it.
        ValueError: the hash is another one, and the file is deleted.
    """
    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    _check_network(HUB_ENDPOINT if place.startswith(HUB) else place)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _fetch_from_hub(place, target) if place.startswith(HUB) else _fetch_url(place, target)
    if sha256 is not None and (found := hash_file(part)) != sha256.lower():
        part.unlink()
        raise ValueError(f"the file has the sha256 {found} instead of {sha256} and was deleted")
    part.replace(target)
    shutil.rmtree(_hub_folder(target), ignore_errors=True)


def fetch_folder(repository: str, revision: str, only_local: bool = False) -> Path:
    """A diffusers folder of the hub, in the hub library's own cache; safetensors where there are some.

    Args:
        repository: ``owner/name``.
        revision: branch, tag or commit.
        only_local: whether to take what the cache holds and ask no server.

    Raises:
        OSError, EntryNotFoundError, ValueError: it cannot be fetched, or lacks the weights.
    """
    for patterns in (FOLDER_FILES, PICKLED_FILES):
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=only_local,
                endpoint=HUB_ENDPOINT,
            )
        )
        if any(folder.rglob(patterns[-1])):
            return folder
    raise FileNotFoundError(f"{repository} has no weights of a UNet2DModel")


def _check_network(url: str) -> None:
    """Fail at once where there is no network: libraries retry a name that is not known for half a minute.

    Raises:
        OSError: the host's name is not known, and no proxy is there to know it.
    """
    host = urlsplit(url).hostname
    if not requests.utils.get_environ_proxies(url, no_proxy=None):
        try:
            socket.getaddrinfo(host, None)
        except socket.gaierror as error:
            raise OSError(f"no connection to {host}: {error.strerror}") from error


def _fetch_from_hub(place: str, target: Path) -> Path:
    owner, name, file = place.removeprefix(HUB).split("/", 2)
    name, _, revision = name.partition("@")
    return Path(
        hf_hub_download(
            f"{owner}/{name}",
            file,
            revision=revision or None,
            local_dir=_hub_folder(target),
            endpoint=HUB_ENDPOINT,
        )
    )


def _hub_folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.hub")


def _fetch_url(url: str, target: Path) -> Path:
    """The file beside ``target``, from where an earlier attempt or run stopped."""
    part = target.with_name(f"{target.name}.part")
    with requests.Session() as session:
        retries = Retry(
            _ATTEMPTS, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        for left in reversed(range(_ATTEMPTS)):
            before = part.stat().st_size if part.exists() else 0
            try:
                _append(session, url, part)
                return part
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
                gained = part.exists() and part.stat().st_size > before
                if not (left and gained):
                    raise
                log.warning("the connection to %s broke (%s); going on", url, type(error).__name__)
    raise AssertionError  # the last attempt returns or raises


def _append(session: requests.Session, url: str, part: Path) -> None:
    """What is missing of the file, if the server still has the same one; else all of it."""
    mark = part.with_name(f"{part.name}.etag")
    known = mark.read_text() if mark.exists() else ""
    done = part.stat().st_size if known and part.exists() else 0
    headers = {"Range": f"bytes={done}-", "If-Range": known} if done else {}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if done and answer.status_code == requests.codes.requested_range_not_satisfiable:
            if answer.headers.get("Content-Range", "").endswith(f"/{done}"):  # it was complete
                mark.unlink()
                return
            mark.unlink()
            return _append(session, url, part)
        answer.raise_for_status()
        resumed = answer.status_code == requests.codes.partial_content
        mark.write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
        _write(answer, part, done if resumed else 0)
    with suppress(FileNotFoundError):
        mark.unlink()


def _write(answer: requests.Response, part: Path, done: int) -> None:
    length = answer.headers.get("Content-Length")
    total = None if length is None else done + int(length)
    bar = tqdm(total=total, initial=done, desc=f"fetch {part.stem}", unit="B", unit_scale=True, unit_divisor=1024)
    with bar, part.open("ab" if done else "wb") as file:
        for chunk in answer.iter_content(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise requests.ConnectionError(f"{part.stat().st_size} of {total} bytes came")
