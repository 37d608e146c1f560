"""The user's own pictures: a folder, local or remote, with a caption file beside each picture."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import logging
import posixpath
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import upath
from PIL import Image, ImageOps

from jaxgen import types
from jaxgen.data import fields, hashing, order

if TYPE_CHECKING:
    from jaxgen.data.pipeline import Data

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SHOWN = 5

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Folder:
    """Pictures of a folder and of the folders in it (png, jpg, jpeg, webp, bmp), in the order of their relative names.

    `cat.png` is captioned by `cat.txt` beside it, in UTF-8. Names that begin with a dot are passed over; links to
    folders are not followed. A picture is turned upright, laid on white where it is transparent, cut to its central
    square and resized. A broken picture, or a caption that is missing, empty or not UTF-8, keeps its row with weight 0
    and is named in a warning, once however often the folder is opened; a larger share of them than `data.broken_limit`
    is refused, on opening or later.

    Attributes:
      path: the folder, local or as a URL of an installed file system (gs://bucket/pictures needs gcsfs).
      caption_extension: ending of caption files.
      test_share: share of pictures for testing, chosen by a hash of the relative name: adding pictures moves none.
      verify: at most this many pictures, evenly spaced, have their headers and checksums read on opening.
      threads: readers at a time.
    """

    path: str = ""
    caption_extension: str = ".txt"
    test_share: float = 0.1
    verify: int = 10_000
    threads: int = 16

    def features(self, data: Data) -> dict[str, jax.ShapeDtypeStruct]:
        """See `jaxgen.data.fields.common`; texts that do not fit are cut.

        Raises:
          BadInput: an option out of its range. A missing path is not: a recipe leaves it to who uses it, and `open` asks for it.
        """
        if not self.caption_extension.startswith("."):
            raise types.BadInput("source.caption_extension", self.caption_extension, "an ending that begins with a dot")
        if not 0 <= self.test_share <= 1:
            raise types.BadInput("source.test_share", self.test_share, "a share in [0, 1]")
        if self.verify < 0:
            raise types.BadInput("source.verify", self.verify, "at least 0")
        if self.threads < 1:
            raise types.BadInput("source.threads", self.threads, "at least 1")
        return fields.common(data)

    def open(self, data: Data, split: str, seed: int, shuffle: bool) -> types.Examples:
        """Lists the folder, reads the captions of the split and looks at its pictures without decoding them.

        Raises:
          BadInput: no path, a missing, unreadable or empty folder, a split without pictures, too many broken examples, or as
            `features`.
        """
        self.features(data)
        if not self.path:
            raise types.BadInput("source.path", self.path, "the folder of your pictures, as in --set data.source.path=~/pictures")
        listing = _listing(self.path)
        pictures = sorted(name for name in listing.sizes if posixpath.splitext(name)[1].lower() in EXTENSIONS)
        if not pictures:
            found = f"{self.path} with {len(listing.sizes)} files{_endings(listing.sizes)}"
            raise types.BadInput("source.path", found, f"a folder with pictures ({', '.join(EXTENSIONS)})")
        names = [name for name in pictures if (hashing.share(name) < self.test_share) == (split == "test")]
        if not names:
            found = f"{self.test_share}, which leaves none of {len(pictures)} pictures for {split}"
            raise types.BadInput("source.test_share", found, "a share that leaves some, or more pictures")
        captions = {posixpath.splitext(name)[0] + self.caption_extension for name in pictures}
        others = listing.sizes.keys() - captions - set(pictures)
        if others:
            what = f"{len(others)} files that are neither pictures nor their captions are passed over{_endings(others)}"
            _say_once(logging.INFO, f"{self.path}: {what}")
        return _Examples(self, data, listing, names, split, seed, shuffle)


@dataclasses.dataclass(frozen=True)
class _Listing:
    """A folder's files. `sizes` has bytes by relative name."""

    fs: Any
    root: str
    sizes: dict[str, int]

    def open(self, name: str) -> Any:
        return self.fs.open(posixpath.join(self.root, name), "rb")


def _listing(path: str) -> _Listing:
    try:
        folder = upath.UPath(path).expanduser().absolute()
        fs, root = folder.fs, folder.path
        is_folder = fs.isdir(root)
        found = dict(_files(fs, root)) if is_folder else {}
    except Exception as error:
        # File systems fail in ways of their own: permissions, credentials, a missing package, an unknown protocol.
        needed = f"a folder that can be read ({type(error).__name__}: {error})"
        raise types.BadInput("source.path", path, needed) from error
    if not is_folder:
        raise types.BadInput("source.path", path, "an existing folder")
    return _Listing(fs, root, {posixpath.relpath(name, root): size for name, size in found.items()})


def _endings(names: Iterable[str]) -> str:
    """The most frequent endings of these names in brackets; "" without a name."""
    counts = collections.Counter(posixpath.splitext(name)[1].lower() or "no ending" for name in names)
    shown = ", ".join(f"{count} {ending}" for ending, count in counts.most_common(_SHOWN))
    return f" ({shown}{', …' if len(counts) > _SHOWN else ''})" if counts else ""


def _files(fs: Any, folder: str) -> Iterator[tuple[str, int]]:
    """Files below a folder and their bytes. A file system's own walk passes over what it has no permission for."""
    for entry in fs.ls(folder, detail=True):
        name = entry["name"].rstrip("/")
        # Object stores list a folder's placeholder as something in it.
        if name == folder or posixpath.basename(name).startswith("."):
            continue
        if entry["type"] == "directory":
            yield from _files(fs, name)
        else:
            yield name, entry["size"] or 0


class _Examples:
    def __init__(self, source: Folder, data: Data, listing: _Listing, names: Sequence[str], split: str, seed: int, shuffle: bool):
        self._data, self._listing, self._names = data, listing, names
        self._path = source.path
        self._threads = concurrent.futures.ThreadPoolExecutor(source.threads, "folder")
        self._broken: dict[int, str] = {}
        self._unnamed: list[int] = []
        self._split = split
        self._lock = threading.Lock()
        self._order = order.shuffled(len(names), seed) if shuffle else order.stored(len(names))

        self._captions = list(self._threads.map(self._caption(source.caption_extension), range(len(names))))
        checked = np.unique(np.linspace(0, len(names) - 1, min(source.verify, len(names))).astype(int)).tolist()
        for _ in self._threads.map(self._verify, checked):
            pass
        self._refuse(self._broken, len(names), "source.path")
        self._refuse(self._broken.keys() & set(checked), len(checked), "source.path")
        # After the refusal, which would come last below a line for each caption of a folder without captions.
        self._name_broken()

        digest = hashlib.blake2b(digest_size=8)
        for name, caption in zip(names, self._captions, strict=True):
            # Names of a local disk need not be UTF-8.
            facts = f"{name}\0{listing.sizes[name]}\0{caption}\0"
            digest.update(facts.encode(errors="surrogateescape"))
        self.fingerprint = f"folder-{split}-{digest.hexdigest()}"
        found = f"{len(names)} pictures for {split}, {len(self._broken)} of them broken so far"
        _say_once(logging.INFO, f"{source.path}: {found}", self.fingerprint)
        self._name_cut()

    def __len__(self) -> int:
        return len(self._names)

    def rows(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        indices = [int(index) for index in self._order(numbers)]
        pictures = list(self._threads.map(self._picture, indices))
        # After the pictures: decoding finds what headers do not show.
        self._refuse(self._broken, len(self), "data.source.path")
        self._name_broken()
        size, length = self._data.resolution, self._data.text_length
        black = np.zeros((size, size, self._data.channels), np.uint8)
        nothing = (black, np.zeros(length, np.int32), np.zeros(length, np.bool_))
        whole = [index not in self._broken for index in indices]
        rows = [
            (picture, *self._data.tokenizer.encode(self._captions[index], length)) if good else nothing
            for index, picture, good in zip(indices, pictures, whole, strict=True)
        ]
        images, ids, masks = zip(*rows, strict=True)
        return {
            "image": np.stack(images),
            "text": np.stack(ids),
            "text_mask": np.stack(masks),
            "weight": np.array(whole, np.float32),
            "index": np.array(indices, np.int32),
        }

    def _caption(self, extension: str) -> Callable[[int], str]:
        def read(index: int) -> str:
            name = posixpath.splitext(self._names[index])[0] + extension
            if name not in self._listing.sizes:
                self._mark(index, f"no caption {name}")
                return ""
            try:
                with self._listing.open(name) as stream:
                    caption = stream.read().decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                self._mark(index, f"caption {name} is not UTF-8")
                return ""
            except OSError as error:
                self._mark(index, f"caption {name}: {error}")
                return ""
            if not caption:
                self._mark(index, f"empty caption {name}")
            return caption

        return read

    def _verify(self, index: int) -> None:
        def verify(picture: Image.Image) -> None:
            picture.verify()

        self._read(index, verify)

    def _picture(self, index: int) -> np.ndarray | None:
        if index in self._broken:
            return None
        return self._read(index, lambda picture: _fit(picture, self._data.resolution, self._data.channels))

    def _read(self, index: int, look: Callable[[Image.Image], Any]) -> Any:
        """What `look` makes of a picture; None, and the example marked as broken, where it cannot be read."""
        try:
            with self._listing.open(self._names[index]) as stream, Image.open(stream) as picture:
                return look(picture)
        except MemoryError:
            raise
        except Exception as error:
            # A damaged file makes Pillow raise almost anything, struct.error for damaged EXIF among it. `broken_limit` guards.
            # Pillow's own message shows an open file's address.
            unknown = isinstance(error, Image.UnidentifiedImageError)
            self._mark(index, "not a picture" if unknown else f"{type(error).__name__}: {error}")
            return None

    def _mark(self, index: int, reason: str) -> None:
        with self._lock:
            if index not in self._broken:
                self._broken[index] = reason
                self._unnamed.append(index)

    def _name_broken(self) -> None:
        with self._lock:
            new, self._unnamed = sorted(self._unnamed), []
        for index in new:
            _say_once(logging.WARNING, f"{self._names[index]} is left out: {self._broken[index]}", self._path)

    def _name_cut(self) -> None:
        length = self._data.text_length
        needed = [self._data.tokenizer.needed(caption) for caption in self._captions]
        cut = sum(tokens > length for tokens in needed)
        if cut:
            longest = int(np.argmax(needed))
            what = f"{cut} of {len(needed)} captions for {self._split} are cut to data.text_length={length}"
            _say_once(logging.WARNING, f"{what}; the longest, of {self._names[longest]}, needs {needed[longest]}", self.fingerprint)

    def _refuse(self, broken: Iterable[int], count: int, option: str) -> None:
        """Raises BadInput where more than the limit of `count` examples are broken."""
        with self._lock:
            worst = sorted(broken)
        if len(worst) > self._data.broken_limit * count:
            shown = "; ".join(f"{self._names[index]} ({self._broken[index]})" for index in worst[:_SHOWN])
            more = f"; and {len(worst) - _SHOWN} more" if len(worst) > _SHOWN else ""
            share = f"{len(worst)} of {count} examples for {self._split} broken ({len(worst) / count:.1%})"
            found = f"{self._path}: {share}: {shown}{more}"
            raise types.BadInput(option, found, f"at most {self._data.broken_limit:.1%} (data.broken_limit)")


@functools.cache
def _say_once(level: int, message: str, where: str = "") -> None:
    """Logs a message about a place, unless this process has: a command opens the same folder several times."""
    _log.log(level, "%s", message)


def _fit(picture: Image.Image, size: int, channels: int) -> np.ndarray:
    """Upright, on white, the central square, resized: uint8 [size, size, channels]."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        # Pillow would clip 16 bits to 8 instead of scaling.
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    # Pillow's filters widen with the reduction, so nothing aliases.
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box)).reshape(size, size, channels)
