"""What a failure means depends on who has said it: the service at a creation, the service otherwise, or ssh to a host."""

import pytest

from jaxgen import bad_input
from jaxgen.parallel import slices
from launch import failures, gcloud, wanted

PLACE = wanted.Place("us-west4-a")
REQUEST = wanted.Request("demo", slices.parse("v5e:4x4"))
CREATE, DESCRIBE = gcloud.create(PLACE, REQUEST), gcloud.describe(PLACE, "demo")
SSH, SCP = gcloud.ssh(PLACE, "demo", "create"), gcloud.scp(PLACE, "file", "demo", "there")


@pytest.mark.parametrize(
    "words, said",
    [
        (SSH, "NOT_FOUND: Resource 'projects/p/locations/us-west4-a/nodes/demo' was not found"),
        (SSH, 'This TPU has terminal state "PREEMPTED", so it cannot be used anymore.'),
        (SSH, "root@10.0.0.1: Permission denied (publickey).\n[/usr/bin/ssh] exited with return code [255]."),
        (SCP, "mkdir: cannot create directory: File already exists"),
        (DESCRIBE, "UNAVAILABLE: The service is currently unavailable."),
        (DESCRIBE, "HTTPSConnectionPool(host='oauth2.googleapis.com', port=443): Max retries exceeded"),
        (CREATE, 'There is no more capacity in the zone "us-west4-a"; you can try in another zone'),
        (CREATE, "INTERNAL: An internal error has occurred"),
        (DESCRIBE, ""),
    ],
)
def test_what_may_pass_does_not_stop_the_babysitter(words, said):
    meaning = failures.meaning(f"WARNING: something\nERROR: (gcloud.compute.tpus.x.y) {said}", words, REQUEST)
    assert isinstance(meaning, failures.Failed)
    assert said.split("\n")[0] in str(meaning)


@pytest.mark.parametrize("words", [CREATE, DESCRIBE, SSH, SCP])
def test_an_account_that_is_logged_out_is_named_by_every_command(words):
    meaning = failures.meaning(
        "ERROR: (gcloud.x) There was a problem: Reauthentication failed. Please run:\n gcloud auth login", words
    )
    assert isinstance(meaning, bad_input.BadInput) and meaning.needed == "gcloud auth login"


@pytest.mark.parametrize(
    "said, option",
    [
        ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p/locations/us-west4-a/nodes/demo'", "gcloud"),
        ("PERMISSION_DENIED: Permission denied on 'locations/us-west9-z' (or it may not exist).", "--zone"),
        ("INVALID_ARGUMENT: unknown zone us-west9-z", "--zone"),
    ],
)
def test_zones_and_rights_are_told_apart(said, option):
    meaning = failures.meaning(f"ERROR: (gcloud.x) {said}", DESCRIBE)
    assert isinstance(meaning, bad_input.BadInput) and meaning.option == option


def test_a_command_that_fails_on_a_host_is_told_from_ssh_that_fails():
    noise = "SSH: Attempting to connect to worker 0...\n" * 20
    broken = failures.of_host(1, f"{noise}No space left on device\n", SSH)
    assert isinstance(broken, failures.CommandFailed) and str(broken).endswith("No space left on device")
    for code, err in (
        (255, noise),
        (1, f"{noise}ERROR: (gcloud.compute.tpus.tpu-vm.ssh) NOT_FOUND: Resource 'nodes/demo' was not found"),
    ):
        lost = failures.of_host(code, err, SSH)
        assert isinstance(lost, failures.Failed) and not isinstance(lost, failures.CommandFailed)


def test_what_is_absent_is_told_from_what_failed():
    assert failures.is_absent("ERROR: (gcloud.x) NOT_FOUND: Resource 'projects/p/locations/z/queuedResources/demo' was not found")
    assert not failures.is_absent("ERROR: (gcloud.x) UNAVAILABLE: not now")
    assert not failures.is_absent("ERROR: (gcloud.x) PERMISSION_DENIED: Location z is not found or access is unauthorized.")
