"""What parity tests share lies beside them. At the end of the path: another folder of tests has a module of the name `recorded`."""

import pathlib
import sys

sys.path += [path for path in (str(pathlib.Path(__file__).parent),) if path not in sys.path]
