"""Decoded records kept in memory, one cache per open source and treatment."""

import collections
import threading
import weakref
from collections.abc import Hashable
from typing import Any

import numpy as np

Item = tuple[np.ndarray, str]  # what was decoded, and the text beside it


class Cache:
    """Decoded records by position, least recently used out first, bounded in bytes of their arrays."""

    def __init__(self, limit: int):
        self._limit, self._size, self._lock = limit, 0, threading.Lock()
        self._items: collections.OrderedDict[int, Item] = collections.OrderedDict()

    def get(self, position: int) -> Item | None:
        """What is kept for a position."""
        with self._lock:
            if (item := self._items.get(position)) is not None:
                self._items.move_to_end(position)
            return item

    def put(self, position: int, item: Item) -> None:
        """Keeps an item, and drops those that were not asked for longest where the limit wants it."""
        with self._lock:
            if position in self._items or item[0].nbytes > self._limit:
                return
            self._items[position] = item
            self._size += item[0].nbytes
            while self._size > self._limit:
                _, (array, _) = self._items.popitem(last=False)
                self._size -= array.nbytes


_CACHES: weakref.WeakKeyDictionary[Any, dict[Hashable, Cache]] = weakref.WeakKeyDictionary()


def cache_of(source: Any, treatment: Hashable, megabytes: int) -> Cache:
    """The cache of an open source and a treatment; it goes when the source goes."""
    treatments = _CACHES.setdefault(source, {})
    if (found := treatments.get(treatment)) is None:
        found = treatments.setdefault(treatment, Cache(megabytes * 1_000_000))
    return found
