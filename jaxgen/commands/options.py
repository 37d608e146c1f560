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


def add_join(parser: argparse.ArgumentParser) -> None:
    meaning = "how long to wait for the other hosts, where the job has several (default 600)"
    parser.add_argument("--join-within", type=positive, default=600, metavar="SECONDS", help=meaning)


def steps(text: str) -> tuple[int, int]:
    """First and last step, for argparse."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise argparse.ArgumentTypeError(f"found {text!r}, needed FIRST:LAST, two steps")
    return int(first), int(last)
