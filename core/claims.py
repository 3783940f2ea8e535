"""Who computes which keys of the cache, where one run computes a key and the others wait for it.

Objects ``claims/<task>/<base>/<number>`` below the store's shared prefix say, in one order for all:
this holder takes these keys from now on. Each is made by put-if-absent, so a run that claims has
read all earlier claims. A *holder* is a node of a run's driver. It lives as long as its object
``holders/<holder>`` changes, which names its process, too, for those on its machine; and is gone when
that is removed, which is done when the node has ended and its commits are in the index. Keys of holders
that are gone may be claimed anew, and so may those of claims without a holder: their items have ended
without a value.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Collection

from .errors import AlreadyExistsError, NotFoundError
from .hostname import hostname
from .identity import SIZE
from .interfaces import RunStore
from .process_marks import gone, own_mark

BEAT_SECONDS = 5.0
"""Between two changes of a living holder's object."""
LEASE_SECONDS = 30.0
"""A holder whose object has not changed for so long is gone."""
_HOLDERS = "holders/"
_MANY = 64
"""Claims of a base of which the old ones are removed where nobody holds a key any more."""
_log = logging.getLogger("headrace")


class Claims:
    """The claims on one base, as one holder sees them. Any thread."""

    def __init__(
        self, shared: RunStore, task: str, base: str, run: str, driver: str, node: int
    ) -> None:
        self._shared, self._run, self._driver = shared, run, f"{run}-{driver}"
        self._folder = f"claims/{task}/{base}/"
        self._me = f"{self._driver}-{node}"
        self._read = 0
        self._owners: dict[bytes, str] = {}
        self._beats: dict[str, tuple[bytes, float]] = {}
        """Holder -> what its object was, and since when, by our own clock."""
        self._mine: set[bytes] = set()
        self._lock = threading.Lock()

    def take(self, keys: Collection[bytes], now: float) -> set[bytes]:
        """Claim those of the keys that nobody else holds; gives the others. ``now``: monotonic seconds.

        Raises
        ------
        StorageError
            The claims cannot be read or written; none of the keys was claimed.
        """
        with self._lock:
            while True:
                self._catch_up()
                holders = {self._owners[key] for key in keys if key in self._owners}
                alive = {each for each in holders if each != self._me and self._lives(each, now)}
                held = {key for key in keys if self._owners.get(key) in alive}
                free = [key for key in keys if key not in held and key not in self._mine]
                if not free:
                    return held
                if not self._mine:
                    self.beat(now)
                if self._put(self._me, free):
                    self._mine.update(free)
                    return held

    def give_up(self, keys: Collection[bytes]) -> None:
        """Leave those of the keys that are claimed here to others. Raises StorageError."""
        with self._lock:
            mine = self._mine.intersection(keys)
            while mine:
                self._catch_up()
                if self._put("", mine):
                    self._mine -= mine
                    return

    def _put(self, holder: str, keys: Collection[bytes]) -> bool:
        """Write the next claim; False: somebody was faster, perhaps with these very keys."""
        claim = {"holder": holder, "keys": b64encode(b"".join(keys)).decode()}
        path = f"{self._folder}{self._read + 1:08d}"
        try:
            self._shared.write(path, json.dumps(claim).encode(), if_absent=True)
        except AlreadyExistsError:
            return False
        return True

    def owns(self, keys: Collection[bytes]) -> bool:
        """Are all of them claimed here?"""
        return self._mine.issuperset(keys)

    @property
    def active(self) -> bool:
        """Is anything claimed here?"""
        return bool(self._mine)

    def beat(self, now: float) -> None:
        """Tell that this holder lives. Raises StorageError."""
        told = {"beat": now, "host": hostname(), "pid": os.getpid(), "process": own_mark()}
        self._shared.write(_HOLDERS + self._me, json.dumps(told).encode())

    def release(self) -> None:
        """Hold nothing any more. Raises StorageError."""
        with self._lock:
            self._mine.clear()
        self._shared.delete([_HOLDERS + self._me])

    def _catch_up(self) -> None:
        listed = [info.path for info in self._shared.list(self._folder)]
        for path in listed:
            number = int(path.removeprefix(self._folder))
            if number > self._read:
                try:
                    claim = json.loads(self._shared.read(path))
                    keys, holder = b64decode(claim["keys"]), str(claim["holder"])
                except NotFoundError:  # removed as an old one
                    keys, holder = b"", ""
                except (KeyError, TypeError, ValueError) as error:
                    _log.warning("%s/%s: a damaged claim: %r", self._shared.url, path, error)
                    keys, holder = b"", ""
                self._read = number
                if holder.startswith(self._run) and not holder.startswith(self._driver):
                    continue  # an earlier driver of this run, which has been taken over
                for at in range(0, len(keys), SIZE):
                    key = keys[at : at + SIZE]
                    if holder:
                        self._owners[key] = holder
                    else:
                        self._owners.pop(key, None)
        if len(listed) > _MANY and not self._shared.list(_HOLDERS):
            self._shared.delete(listed[:-1])  # the last one says which number is next

    def _lives(self, holder: str, now: float) -> bool:
        try:
            told = self._shared.read(_HOLDERS + holder)
        except NotFoundError:
            return False
        known, since = self._beats.get(holder, (b"", now))
        if told != known:
            known, since = told, now
        self._beats[holder] = (known, since)
        if now - since < LEASE_SECONDS and not _has_ended(told):
            return True
        self._shared.delete([_HOLDERS + holder])
        return False


def _has_ended(told: bytes) -> bool:
    """Is a holder's process known to be gone?"""
    try:
        holder = json.loads(told)
        return gone(str(holder["host"]), int(holder["pid"]), str(holder["process"]))
    except (KeyError, TypeError, ValueError):  # of another version
        return False
