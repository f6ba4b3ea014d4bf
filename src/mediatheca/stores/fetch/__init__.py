"""The ways out to every URL that somebody else gave us, all behind one guard.

`Fetcher` (`client`) gets a file or sends a request; `Sender` (`sender`) sends many small messages and keeps the
connections; `StorageHttp` (`storage`) reads object stores by the thousand; `FetchProxy` (`proxy`) stands between a
browser and the world. `url` says what may be a URL, `guard` which addresses may be behind it, `pinned` connects to
those and no others, `body` reads an answer within limits.
"""

from mediatheca.stores.fetch.client import Answered, Fetched, Fetcher, FetchFailedError, check_encrypted
from mediatheca.stores.fetch.url import check_url

__all__ = ["Answered", "FetchFailedError", "Fetched", "Fetcher", "check_encrypted", "check_url"]
