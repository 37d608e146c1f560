"""The data of sites: which examples lie where, what all share, and batches for all of them at once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen import types
from jaxgen.data import order

_BLOCK = 1024


class SiteExamples:
    """The examples of all sites as one source, whose "batch" is a batch for each site, one behind the other.

    Row r of a step belongs to site r // B, where B is the batch of one site. A site goes through its own examples in an order of
    its own, each epoch another.

    Args:
      examples: the source, opened in stored order.
      parts: places of each site's examples.
      batch_size: B.
    """

    def __init__(self, examples: types.Examples, parts: Sequence[np.ndarray], batch_size: int, seed: int) -> None:
        self._examples, self._parts, self._batch = examples, [np.asarray(part) for part in parts], batch_size
        self._orders = [order.permuted(len(part), seed * len(parts) + site) for site, part in enumerate(parts)]
        digest = hashlib.blake2b(digest_size=8)
        for part in self._parts:
            digest.update(np.asarray([len(part), *part], np.int64).tobytes())
        self.fingerprint = f"{examples.fingerprint}-{len(parts)}-sites-{digest.hexdigest()}"

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        steps, rest = np.divmod(np.asarray(numbers, np.int64), len(self._parts) * self._batch)
        sites, rows = np.divmod(rest, self._batch)
        own = steps * self._batch + rows
        found = np.empty(len(own), np.int64)
        for site in np.unique(sites):
            here, part = sites == site, self._parts[site]
            epochs = own[here] // len(part)
            # The source counts its epochs by row numbers, and an example may come back with other words.
            found[here] = epochs * len(self._examples) + part[self._orders[site](own[here])]
        return self._examples.rows(found.tolist())


class HeldExamples:
    """Examples that are held in memory, in stored order: a source that takes long to read, read once."""

    def __init__(self, examples: types.Examples) -> None:
        self._rows = read(examples, np.arange(len(examples)))
        self.fingerprint = examples.fingerprint

    def __len__(self) -> int:
        return len(self._rows["index"])

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        places = np.asarray(numbers, np.int64) % len(self)
        return {name: values[places] for name, values in self._rows.items()}


@dataclasses.dataclass(frozen=True)
class Sites:
    """What lies where.

    Attributes:
      examples: of all sites, as the loader reads them.
      parts: places of each site's examples in the source.
      shared: rows of the shared examples, [n, ...] each.
      degrees: η of each site, float32 [sites].
      counts: examples by site and class [sites, classes]; of one class where the source has no labels.
    """

    examples: SiteExamples
    parts: tuple[np.ndarray, ...]
    shared: dict[str, np.ndarray]
    degrees: np.ndarray
    counts: np.ndarray


def divide(swarm: Any, data: Any, examples: types.Examples, seed: int) -> Sites:
    """Sets the shared examples aside and divides the others among the sites.

    Args:
      swarm: a `jaxgen.swarm.settings:Swarm`. data: the data configuration. examples: the source, opened in stored order.

    Raises:
      BadInput: too few examples, or a source without the labels that are needed; option names are full.
    """
    random = np.random.default_rng(seed)
    count = len(examples)
    if swarm.shared + swarm.sites > count:
        raise types.BadInput("swarm.shared", swarm.shared, f"at most {count - swarm.sites} of {count} examples, one a site left")
    labels = read(examples, np.arange(count), ("label",))["label"] if "label" in data.features() else None
    places = random.permutation(count)
    shared, rest = np.sort(places[: swarm.shared]), np.sort(places[swarm.shared :])
    try:
        divided = swarm.partition(None if labels is None else labels[rest], len(rest), swarm.sites, random)
    except types.BadInput as complaint:
        raise complaint.under("swarm.partition") from None
    parts = tuple(rest[part] for part in divided)
    if swarm.mix_shared:
        parts = tuple(np.sort(np.concatenate([part, shared])) for part in parts)
    degrees = np.zeros(len(parts), np.float32)
    if swarm.degree is not None:
        try:
            degrees = swarm.degree(parts, shared, labels, lambda places: read(examples, places))
        except types.BadInput as complaint:
            raise complaint.under("swarm.degree") from None
    known = np.zeros(count, int) if labels is None else labels
    counts = np.array([[np.sum(known[part] == label) for label in np.unique(known)] for part in parts])
    return Sites(SiteExamples(examples, parts, data.batch_size, seed), parts, read(examples, shared), degrees, counts)


def read(examples: types.Examples, places: np.ndarray, fields: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Rows of these places, all fields or those named."""
    parts = []
    for start in range(0, len(places), _BLOCK):
        rows = examples.rows(places[start : start + _BLOCK].tolist())
        parts.append(rows if fields is None else {name: rows[name] for name in fields})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
