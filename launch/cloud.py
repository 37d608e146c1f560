"""The cloud as the launcher sees it: asks gcloud and the hosts, and tells them, for one request."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from jaxgen import bad_input
from launch import babysitter, failures, gcloud, hosts, wanted

T = TypeVar("T")
# ssh sessions to nodes at a time.
_PARALLEL = 16


@dataclasses.dataclass(frozen=True)
class Sight:
    """A request and its nodes as the cloud describes them now.

    Attributes:
      state: of the request; ABSENT where there is none.
      error: why it FAILED, in the cloud's words.
      nodes: their names.
      node_states: their states; MISSING where there is none.
      node_hosts: how many hosts each has; 0 where that is not known.
    """

    state: str
    error: str = ""
    nodes: tuple[str, ...] = ()
    node_states: tuple[str, ...] = ()
    node_hosts: tuple[int, ...] = ()


class Cloud:
    """One request in one place.

    Args:
      runner: runs gcloud.
      place: where.
      name: of the request.
      request: what is wanted; None where the request is only looked at, and what there is counts.
    """

    def __init__(self, runner: gcloud.Runner, place: wanted.Place, name: str, request: wanted.Request | None = None):
        self._runner, self._place, self._name, self._request = runner, place, name, request

    def look(self) -> Sight:
        """Asks for the request and, once it is active, for its nodes.

        Raises:
          BadInput: it is a request for something else, or gcloud needs something from the user.
          failures.Failed: no answer.
        """
        words = gcloud.describe(self._place, self._name)
        result = self._runner.run(words)
        if failures.is_absent(result.err):
            return Sight("ABSENT")
        about = self._json(words, result)
        state = about.get("state", {})
        specification = (about.get("tpu", {}).get("nodeSpec") or [{}])[0]
        several = specification.get("multisliceParams") or specification.get("multiNodeParams") or {}
        count = int(several.get("nodeCount", 1))
        kind = specification.get("node", {}).get("acceleratorType")
        if self._request:
            self._check_same(kind, count)
        names = wanted.node_names(several.get("nodeIdPrefix") or specification.get("nodeId") or self._name, count)
        sight = Sight(state.get("state", "UNKNOWN"), state.get("failedData", {}).get("error", {}).get("message", ""), names)
        return self._with_nodes(sight) if sight.state == "ACTIVE" else sight

    def statuses(self, sight: Sight, job: str | None) -> tuple[hosts.Host, ...]:
        """What the hosts say that answer; of `job`, or of their newest one.

        Raises:
          BadInput: ssh needs something from the user.
        """

        def ask(number: int, node: str) -> tuple[hosts.Host, ...]:
            words = gcloud.ssh(self._place, node, hosts.status(number, job))
            result = self._runner.run(words)
            meaning = failures.meaning(result.err, words, self._request) if result.code else None
            if isinstance(meaning, bad_input.BadInput):
                raise meaning
            # A host that fails spoils the exit code for all; what the others said is there nevertheless.
            return hosts.parse(result.out)

        return tuple(host for found in self._each(ask, sight.nodes) for host in found)

    def observe(self, job: str | None) -> babysitter.Observation:
        """All that the babysitter wants to know, apart from how long it has been so.

        Raises:
          BadInput: as `look`.
          failures.Failed: as `look`.
        """
        assert self._request is not None
        sight = self.look()
        reachable = sight.state == "ACTIVE" and not any(state in babysitter.GONE for state in sight.node_states)
        answers = self.statuses(sight, job) if job and reachable else ()
        return babysitter.Observation(
            sight.state, self._refusal(sight), nodes=sight.node_states, hosts=answers, expected=self._request.hosts
        )

    def create(self) -> None:
        """Asks for the slices.

        Raises:
          BadInput: something that the user has to change.
          failures.Failed: something that may pass.
        """
        assert self._request is not None
        self._checked(gcloud.create(self._place, self._request))

    def delete(self) -> None:
        """Deletes the request with its nodes; it is no fault if there is none.

        Raises:
          BadInput: something that the user has to change.
          failures.Failed: something that may pass.
        """
        words = gcloud.delete(self._place, self._name)
        result = self._runner.run(words)
        if result.code and not failures.is_absent(result.err):
            raise failures.meaning(result.err, words, self._request)

    def ship(self, archive: str, code: str) -> None:
        """Puts the code and its environment on all hosts, where they are missing.

        Raises:
          BadInput: ssh needs something from the user.
          failures.Failed: a host did not answer; `CommandFailed`: it could not unpack or install.
        """

        def one(number: int, node: str) -> None:
            words = gcloud.ssh(self._place, node, hosts.has_code(code))
            there = self._runner.run(words)
            if there.code == failures.SSH_FAILED:
                raise failures.meaning(there.err, words, self._request)
            if there.code:
                self._checked(gcloud.scp(self._place, archive, node, hosts.archive_path(code)))
                self._on(node, hosts.unpack(code))
            self._on(node, hosts.environment(code))

        self._each(one, self._nodes)

    def start(self, job: wanted.Job, attempt: int) -> None:
        """Starts an attempt on all hosts.

        Raises:
          failures.Failed: a host did not answer; `CommandFailed`: it is occupied.
        """
        command = hosts.start(job.name, attempt, job.code, job.environment, job.arguments)
        self._each(lambda number, node: self._on(node, command), self._nodes)

    def stop(self, seconds: int) -> None:
        """Ends what is running on all hosts.

        Raises:
          failures.Failed: a host did not answer.
        """
        self._each(lambda number, node: self._on(node, hosts.stop(seconds)), self._nodes)

    def logs(self, sight: Sight, lines: int, follow: bool, line: Callable[[str], None]) -> None:
        """Hands on lines of the newest attempt's logs of all hosts, as they come."""

        def one(number: int, node: str) -> int:
            return self._runner.follow(gcloud.ssh(self._place, node, hosts.log(number, lines, follow)), line)

        self._each(one, sight.nodes)

    @property
    def _nodes(self) -> tuple[str, ...]:
        assert self._request is not None
        return self._request.nodes

    def _on(self, node: str, command: str) -> None:
        words = gcloud.ssh(self._place, node, command)
        result = self._runner.run(words)
        if result.code:
            raise failures.of_host(result.code, result.err, words)

    def _checked(self, words: tuple[str, ...]) -> gcloud.Result:
        result = self._runner.run(words)
        if result.code:
            raise failures.meaning(result.err, words, self._request)
        return result

    def _json(self, words: tuple[str, ...], result: gcloud.Result) -> Any:
        if result.code:
            raise failures.meaning(result.err, words, self._request)
        try:
            return json.loads(result.out)
        except json.JSONDecodeError as error:
            raise failures.Failed(f"{' '.join(words[:5])} did not print JSON") from error

    def _each(self, one: Callable[[int, str], T], nodes: Iterable[str]) -> list[T]:
        """Calls `one` with the number and name of each node, several at a time; results in the order of nodes."""
        numbered = list(enumerate(nodes))
        with concurrent.futures.ThreadPoolExecutor(min(_PARALLEL, len(numbered))) as pool:
            return list(pool.map(lambda pair: one(*pair), numbered))

    def _with_nodes(self, sight: Sight) -> Sight:
        words = gcloud.nodes(self._place)
        found = {node["name"].rpartition("/")[2]: node for node in self._json(words, self._runner.run(words))}
        there = [found.get(name, {}) for name in sight.nodes]
        states = tuple(node.get("state", "MISSING") for node in there)
        counts = tuple(len(node.get("networkEndpoints", ())) for node in there)
        return dataclasses.replace(sight, node_states=states, node_hosts=counts)

    def _check_same(self, kind: str | None, count: int) -> None:
        assert self._request is not None
        wanted_kind, wanted_count = self._request.slice.accelerator_type, self._request.slices
        if (kind or wanted_kind, count) != (wanted_kind, wanted_count):
            found = f"{self._name}, a request for {count} x {kind}"
            raise bad_input.BadInput("NAME", found, f"a free name, or the same: {wanted_count} x {wanted_kind}")

    def _refusal(self, sight: Sight) -> str | None:
        """Why a request that has FAILED would fail again; None where it may not."""
        if sight.state != "FAILED" or not sight.error:
            return None
        assert self._request is not None
        meaning = failures.meaning(sight.error, gcloud.create(self._place, self._request), self._request)
        lasting = isinstance(meaning, bad_input.BadInput) and not isinstance(meaning, failures.QuotaUsed)
        return str(meaning) if lasting else None
