"""Options that several commands take. Imports nothing heavy."""

from __future__ import annotations

import argparse


def add_experiment(parser: argparse.ArgumentParser, what: str) -> None:
    """The positional argument (`CONFIG` or `RUN`), overrides and trusted packages."""
    meaning = {
        "config": "a configuration: file.py, file.py:variant, a run folder or an experiment.json",
        "run": "a run folder",
    }[what]
    parser.add_argument(what, metavar=what.upper(), help=meaning)
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Overrides and trusted packages."""
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override one option; repeatable")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help="also load classes of this package")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, needed at least 1")
    return number
