"""Brings up TPU slices, runs jaxgen on them, watches over it, shows logs, takes them down.

  python launch/tpu_vm.py run demo --slice v5e:4x4 --zone us-west4-a --spot -- train configs/scenes.py:flow --run gs://bucket/demo
  python launch/tpu_vm.py logs demo --zone us-west4-a --follow

A word @FILE stands for the options in FILE, as they would be typed. launch/README.md tells it from the beginning.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # A script's own folder comes first otherwise, and not the one above it that holds `launch` and `jaxgen`.
    sys.path[0] = str(ROOT)

from jaxgen import bad_input  # noqa: E402
from jaxgen.parallel import slices  # noqa: E402
from launch import archive, babysitter, cloud, dry_run, emit, failures, gcloud, hosts, wanted, watch  # noqa: E402

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = "exit codes: 0 done, 1 the job or gcloud failed, 2 something for you to change, 130 interrupted (the job goes on)"
COMMANDS = {
    "up": "create the slices and put the code on them",
    "run": "run a jaxgen command on them, creating them where needed, and watch over it until it is done",
    "status": "show the request, its nodes and the job on each host",
    "logs": "show the logs of all hosts, and which host failed first",
    "down": "delete the slices",
    "emit": "print the same job for GKE (jobset, xpk) or SkyPilot",
}


class Dry:
    """A clock that does not wait, for `--dry-run`."""

    def now(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        pass


def main(argv: Sequence[str] | None = None, clock: watch.Clock | None = None) -> int:
    """Runs one command and returns the exit code of the process."""
    words = list(sys.argv[1:] if argv is None else argv)
    # What comes after -- is for jaxgen, also where it looks like an option or like @FILE.
    cut = words.index("--") if "--" in words else len(words)
    arguments = _parser().parse_args(words[:cut])
    arguments.job = tuple(words[cut + 1 :])
    try:
        return {"up": up, "run": run, "status": status, "logs": logs, "down": down, "emit": emitted}[arguments.command](
            arguments, clock or (Dry() if arguments.dry_run else watch.SystemClock())
        )
    except bad_input.BadInput as complaint:
        say(f"jaxgen: {complaint}")
        return BAD_INPUT
    except failures.Failed as failure:
        say(f"jaxgen: {failure}")
        return FAILED
    except KeyboardInterrupt:
        say("jaxgen: interrupted; what runs on the slices goes on, and the same command watches again")
        return INTERRUPTED


def say(line: str) -> None:
    """A line about what is going on, apart from what a command prints."""
    print(line, file=sys.stderr, flush=True)


def show(line: str) -> None:
    """A line of a command's output, whole also where threads print."""
    with _PRINTING:
        print(line, flush=True)


def up(arguments: argparse.Namespace, clock: watch.Clock) -> int:
    """Creates the slices, waits for them, puts the code and its environment on all hosts."""
    request, place = _request(arguments), _place(arguments)
    if not arguments.job and not arguments.no_preflight:
        raise bad_input.BadInput("-- COMMAND", "", "the command that will be run, for preflight; or --no-preflight")
    if arguments.job:
        wanted.check_job(arguments.job, request)
    # A shape that cannot be asked for is refused before preflight takes its time.
    gcloud.create(place, request)
    if refused := _preflight(arguments):
        return refused
    path, code = _code(arguments)
    there = cloud.Cloud(_runner(arguments, request), place, request.name, request)
    decision = watch.Watch(there, babysitter.Policy(job=None), None, path, clock, say).run()
    if decision.state is not babysitter.State.READY:
        return _refused(decision)
    there.ship(path, code)
    say(f"{request.name} is ready: {request.slices} x {request.slice}, {request.hosts} hosts")
    return DONE


def run(arguments: argparse.Namespace, clock: watch.Clock) -> int:
    """Runs a jaxgen command to its end, through preemptions."""
    request, place = _request(arguments), _place(arguments)
    wanted.check_job(arguments.job, request)
    wanted.check_environment(tuple(arguments.env))
    # A shape that cannot be asked for is refused before preflight takes its time.
    gcloud.create(place, request)
    if refused := _preflight(arguments):
        return refused
    path, code = _code(arguments)
    job = wanted.Job(arguments.job, code, tuple(arguments.env))
    say(f"job {job.name}, code {path}")
    there = cloud.Cloud(_runner(arguments, request), place, request.name, request)
    policy = babysitter.Policy(job.name, arguments.failures, again=arguments.again, replace=arguments.replace)
    decision = watch.Watch(there, policy, job, path, clock, say).run()
    return _ended(arguments, there, decision)


def status(arguments: argparse.Namespace, clock: watch.Clock) -> int:
    """Shows what is there."""
    there = _present(arguments)
    sight = there.look()
    show(f"request {arguments.name}: {sight.state}{f' ({sight.error})' if sight.error else ''}")
    for node, state, count in zip(sight.nodes, sight.node_states, sight.node_hosts):
        show(f"node {node}: {state}, {count} host{'' if count == 1 else 's'}")
    if sight.state != "ACTIVE":
        return DONE
    answers = there.statuses(sight, None)
    for host in answers:
        newest = host.attempts[-1] if host.attempts else None
        code = "" if newest is None or newest.code is None else f" with {newest.code} at {watch.stamp(newest.time)}"
        show(f"host {host.label}: {f'job {host.job} attempt {newest.number} {newest.state}{code}' if newest else 'no job'}")
    seen = babysitter.Observation(sight.state, nodes=sight.node_states, hosts=answers, expected=sum(sight.node_hosts))
    job = next((host.job for host in answers if host.job), None)
    decision = babysitter.next_action(seen, babysitter.Policy(job or "-"))
    show(f"{decision.state.name}: {decision.reason or decision.state.value}")
    return DONE


def logs(arguments: argparse.Namespace, clock: watch.Clock) -> int:
    """Shows the newest attempt's logs of all hosts."""
    there = _present(arguments)
    sight = there.look()
    if sight.state != "ACTIVE":
        raise bad_input.BadInput("NAME", f"{arguments.name}, which is {sight.state}", "a request that is ACTIVE")
    there.logs(sight, arguments.lines, arguments.follow, show)
    _first_failure(there.statuses(sight, None))
    return DONE


def down(arguments: argparse.Namespace, clock: watch.Clock) -> int:
    """Deletes the request and its nodes."""
    _present(arguments).delete()
    say(f"{arguments.name} is deleted")
    return DONE


def emitted(arguments: argparse.Namespace, clock: watch.Clock) -> int:
    """Prints the job for another launcher."""
    request = _request(arguments)
    wanted.check_job(arguments.job, request)
    wanted.check_environment(tuple(arguments.env))
    settings = emit.Settings(arguments.failures, arguments.image, arguments.queue, arguments.cluster, arguments.reservation)
    show(emit.FORMATS[arguments.format](request, arguments.job, tuple(arguments.env), arguments.zone, settings).rstrip("\n"))
    return DONE


def _ended(arguments: argparse.Namespace, there: cloud.Cloud, decision: babysitter.Decision) -> int:
    """Says how the job ended, shows the log of a failure, and takes the slices down if asked to."""
    state = babysitter.State
    if decision.state not in (state.DONE, state.FAILED):
        return _refused(decision)
    if decision.state is state.FAILED:
        sight = there.look()
        there.logs(sight, 50, False, show)
        _first_failure(there.statuses(sight, None))
        say("jaxgen: the job has failed; --again starts it anew")
    if arguments.down:
        there.delete()
        say(f"{arguments.name} is deleted")
    else:
        project = f" --project {arguments.project}" if arguments.project else ""
        say(f"the slices are still there: python launch/tpu_vm.py down {arguments.name} --zone {arguments.zone}{project}")
    return DONE if decision.state is state.DONE else FAILED


def _refused(decision: babysitter.Decision) -> int:
    """Says why it cannot go on."""
    state = babysitter.State
    if decision.state is state.OCCUPIED:
        raise bad_input.BadInput("-- COMMAND", decision.reason, "slices without another job; --replace stops it first")
    if decision.state is state.UNREACHABLE:
        raise bad_input.BadInput(
            "ssh", decision.reason, "hosts that let ssh in (firewall, or --internal-ip from within the network)"
        )
    # What the cloud has said, in the house's form already.
    say(f"jaxgen: {decision.reason}")
    return BAD_INPUT


def _first_failure(answers: tuple[hosts.Host, ...]) -> None:
    newest = max((each.number for host in answers for each in host.attempts), default=0)
    first = hosts.first_failure(answers, newest)
    if first is not None:
        say(f"first to fail: host {first[0].label}, exit code {first[1].code}, {watch.stamp(first[1].time)} UTC, attempt {newest}")


def _preflight(arguments: argparse.Namespace) -> int:
    """Compiles the job for the slice on this machine, unless told otherwise; returns the exit code of that."""
    words = arguments.job and wanted.preflight_arguments(arguments.job, arguments.slice, arguments.slices)
    if arguments.no_preflight or not words:
        return DONE
    if arguments.dry_run:
        show(shlex.join(("bash", "launch/local.sh", *words)))
        return DONE
    code = subprocess.run(("bash", str(ROOT / "launch" / "local.sh"), *words), check=False).returncode
    if code:
        say(f"jaxgen: preflight ended with {code}: nothing was rented; --no-preflight goes on nevertheless")
    return code


def _code(arguments: argparse.Namespace) -> tuple[str, str]:
    """Path and digest of the archive of the code; a dry run makes no file."""
    if arguments.code:
        data = archive.read(pathlib.Path(arguments.code))
        return arguments.code, archive.digest(data)
    data = archive.pack(ROOT)
    code = archive.digest(data)
    return str(archive.folder() / f"{code}.tar.gz" if arguments.dry_run else archive.keep(data)), code


def _runner(arguments: argparse.Namespace, request: wanted.Request | None) -> gcloud.Runner:
    return dry_run.Printed(request, arguments.name, show) if arguments.dry_run else gcloud.Subprocess()


def _present(arguments: argparse.Namespace) -> cloud.Cloud:
    """A request that is there already, whatever it is for."""
    wanted.check_name(arguments.name)
    return cloud.Cloud(_runner(arguments, None), _place(arguments), arguments.name)


def _place(arguments: argparse.Namespace) -> wanted.Place:
    return wanted.Place(arguments.zone, arguments.project, arguments.internal_ip)


def _request(arguments: argparse.Namespace) -> wanted.Request:
    return wanted.Request(
        arguments.name,
        slices.parse(arguments.slice),
        arguments.slices,
        wanted.Tier(arguments.tier),
        arguments.runtime_version,
        **{name: getattr(arguments, name, None) for name in ("network", "subnetwork", "service_account")},
    )


class _Parser(argparse.ArgumentParser):
    """Reads files of options as a shell would: several words a line, quotes, comments."""

    def convert_arg_line_to_args(self, line: str) -> list[str]:
        return shlex.split(line, comments=True)

    def error(self, message: str) -> None:
        self.exit(BAD_INPUT, f"{self.format_usage()}jaxgen: {message}\n")


def _parser() -> argparse.ArgumentParser:
    options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, "epilog": EXIT_CODES}
    top = _Parser(prog="launch/tpu_vm.py", description=__doc__, **options)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, meaning in COMMANDS.items():
        parser = commands.add_parser(name, help=meaning, description=meaning, fromfile_prefix_chars="@", **options)
        if name == "emit":
            parser.add_argument("format", choices=emit.FORMATS)
        parser.add_argument("name", metavar="NAME", help="of the request")
        if name in ("up", "run", "emit"):
            _add_request(parser)
        if name in ("run", "emit"):
            parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="variable for the job; repeatable")
            parser.add_argument(
                "--failures", type=int, default=0, metavar="N", help="failures in a row that are forgiven (default 0)"
            )
        if name == "emit":
            _add_emit(parser)
        else:
            _add_place(parser)
        if name in ("up", "run"):
            parser.add_argument("--network", help="default: the project's")
            parser.add_argument("--subnetwork", help="default: the network's")
            parser.add_argument("--service-account", metavar="ACCOUNT", help="whose rights the hosts have")
            parser.add_argument("--no-preflight", action="store_true", help="do not compile for the slice on this machine first")
            parser.add_argument("--code", metavar="FILE", help="run this archive, named at an earlier start, not the present tree")
        if name == "run":
            parser.add_argument("--again", action="store_true", help="start the job anew, although it has ended")
            parser.add_argument("--replace", action="store_true", help="stop another job that is running on the slices")
            parser.add_argument("--down", action="store_true", help="delete the slices when the job has ended")
        if name == "logs":
            parser.add_argument("--lines", type=int, default=20, metavar="N", help="of each host, from the end (default 20)")
            parser.add_argument("--follow", action="store_true", help="go on until the attempt ends")
        if name != "emit":
            parser.add_argument("--dry-run", action="store_true", help="print every command, call none")
    return top


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slice", required=True, help="generation:shape, for example v5e:4x4 or v5p:4x4x8")
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="number of slices (default 1)")
    tier = parser.add_mutually_exclusive_group()
    for each in wanted.Tier:
        tier.add_argument(f"--{each.value}", dest="tier", action="store_const", const=each.value, help=f"{each.value} chips")
    parser.set_defaults(tier=wanted.Tier.ON_DEMAND.value)
    parser.add_argument("--runtime-version", metavar="V", help="software of the hosts (default: that of the generation)")


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--zone", required=True, help="for example us-west4-a")
    parser.add_argument("--project", help="default: the one gcloud is set to")
    parser.add_argument("--internal-ip", action="store_true", help="no external addresses; connect from within the network")


def _add_emit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--zone", help="SkyPilot: where (default: anywhere); xpk: the cluster's")
    parser.add_argument("--image", help="jobset, xpk: container image with jaxgen installed")
    parser.add_argument("--queue", help="jobset: Kueue queue")
    parser.add_argument("--cluster", help="xpk: name of the cluster")
    parser.add_argument("--reservation", help="jobset, xpk: name of the reservation, with --reserved")
    parser.set_defaults(dry_run=False)


_PRINTING = threading.Lock()

if __name__ == "__main__":
    sys.exit(main())
