"""Programs written by hand lie beside the tests."""

import pathlib
import sys

sys.path[:0] = [path for path in (str(pathlib.Path(__file__).parent),) if path not in sys.path]
