"""The command line: finds the command, hands it its arguments, returns its exit code.

Exit codes: 0 done, 1 a check failed, 2 bad input, 42 stopped by a signal and saved, 130 interrupted before that, 134 aborted by the
runtime because another host is gone.
"""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "train": "train a configuration, or go on with a run",
    "evaluate": "score runs and write a report, one or several side by side",
    "sample": "draw pictures from a run",
    "config": "show a resolved configuration, its parameters and FLOPs",
    "bench": "measure step time, throughput and memory of a configuration",
    "preflight": "compile a configuration for a TPU slice without one: does it fit, how fast will it be",
    "mup-check": "check over widths that activations and updates keep their scale",
    "mup-sweep": "sweep learning rates at several widths: does the best one move",
    "swarm": "train one model, or share chips, among sites that differ and may lie",
    "reproduce": "repeat a paper's claim at small scale and say whether it holds",
}
EXIT_CODES = """exit codes: 0 done, 1 a check failed, 2 bad input, 42 stopped by a signal and saved, 130 interrupted before that,
134 aborted by the runtime because another host is gone"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the process's exit code."""
    argv = sys.argv[1:] if argv is None else argv
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="jaxgen",
        description="Train, sample and evaluate generative models in JAX.",
        epilog=f"commands:\n{listing}\n\njaxgen COMMAND --help says more. {EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="jaxgen [--help] COMMAND ...",
    )
    top.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    command = top.parse_args(argv[:1]).command

    module = importlib.import_module(f"jaxgen.commands.{command.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"jaxgen {command}",
        description=module.__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    arguments = parser.parse_args(argv[1:])
    from jaxgen.commands import session

    return session.guarded(module.run, arguments)
