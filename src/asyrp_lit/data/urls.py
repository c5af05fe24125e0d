"""URLs of fsspec, and what goes wrong on the way to them."""

from collections.abc import Iterator
from contextlib import contextmanager

from asyrp_lit.files import FULL


def is_url(place: object) -> bool:
    """Whether a place is one of fsspec's URLs rather than a local path."""
    return "://" in str(place)


@contextmanager
def errors_name(url: str) -> Iterator[None]:
    """Turn what a file system of fsspec raises on the way to a URL, each of a library of its own, into what says it.

    Raises:
        FileNotFoundError: there is no such place.
        OSError: it cannot be read for another reason; what the system says of a local file or a full disk stays.
        ValueError: a package is missing, or the URL is none.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {url}: copy the whole folder of a store there") from error
    except ImportError as error:
        raise ValueError(
            f"{url} needs a package that is not installed ({error}): pip install 'asyrp_lit[remote]' brings those for "
            "s3:// and gs://"
        ) from error
    except Exception as error:
        local = isinstance(error, OSError) and (error.filename or error.errno in FULL)
        if local or isinstance(error, ValueError | MemoryError):
            raise
        reason = ": ".join(part for part in (type(error).__name__, str(error)) if part)
        raise OSError(f"{url} cannot be read ({reason}): see to the address, network and credentials") from error
