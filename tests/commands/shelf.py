"""An fsspec store that outlives the process and is no local disk to the program: `shelf://`, objects in $SHELF, no append."""

import io
import os

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class Shelf(DirFileSystem):
    protocol = "shelf"
    cachable = False
    sep = "/"

    def __init__(self, **options):
        super().__init__(path=os.environ["SHELF"], fs=LocalFileSystem(auto_mkdir=True), **options)

    @classmethod
    def _strip_protocol(cls, path):
        return str(path).removeprefix("shelf://").strip("/")

    def open(self, path, mode="rb", **options):
        if "a" in mode:
            raise io.UnsupportedOperation("objects cannot be appended to")
        return super().open(path, mode, **options)


fsspec.register_implementation("shelf", Shelf)
