"""A `gcloud` for PATH that is a small cloud: requests and nodes are files, hosts are home folders where ssh runs bash.

Unlike a recording it does what it is told, so that the launcher, its babysitter and worker.sh are tried together.
"""

import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys


class Model:
    """The cloud, as the test changes it. Each node has `hosts` hosts."""

    def __init__(self, folder, hosts):
        self.folder = folder
        self.program = folder / "bin" / "gcloud"
        self.program.parent.mkdir(parents=True)
        self.program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {folder} {hosts} "$@"\n')
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def set(self, request=None, nodes=None):
        """Gives the request and its nodes other states."""
        for path, state in [(self.folder / "request.json", request)] + [(each, nodes) for each in self.folder.glob("node-*.json")]:
            if state:
                path.write_text(json.dumps(json.loads(path.read_text()) | {"state": state}))

    def homes(self):
        """Home folders of all hosts."""
        return sorted(self.folder.glob("homes/*/*"))

    @property
    def calls(self):
        """What was called, in order: create, delete, ..."""
        return (self.folder / "calls").read_text().split()


def main(folder, hosts, words):
    def after(option):
        return words[words.index(option) + 1]

    kind, name = words[4], words[5]
    with open(folder / "calls", "a") as calls:
        calls.write(f"{kind}\n")
    request = folder / "request.json"
    if kind == "create":
        if request.exists():
            sys.exit(f"ERROR: (gcloud) ALREADY_EXISTS: Resource '{name}' already exists")
        count = int(after("--node-count")) if "--node-count" in words else 1
        nodes = [name] if count == 1 else [f"{name}-{number}" for number in range(count)]
        request.write_text(json.dumps({"state": "ACTIVE", "nodes": nodes, "type": after("--accelerator-type")}))
        for node in nodes:
            (folder / f"node-{node}.json").write_text(json.dumps({"name": f"projects/p/nodes/{node}", "state": "READY"}))
            for host in range(hosts):
                (folder / "homes" / node / str(host) / "bin").mkdir(parents=True)
                curl = folder / "homes" / node / str(host) / "bin" / "curl"
                curl.write_text(f"#!/bin/sh\necho {host}\n")
                curl.chmod(0o755)
    elif not request.exists():
        sys.exit("ERROR: (gcloud) NOT_FOUND: Resource was not found.")
    elif kind == "describe":
        about = json.loads(request.read_text())
        several = {"multisliceParams": {"nodeCount": len(about["nodes"])}} if len(about["nodes"]) > 1 else {}
        specification = {"node": {"acceleratorType": about["type"]}} | several
        print(json.dumps({"state": {"state": about["state"]}, "tpu": {"nodeSpec": [specification]}}))
    elif kind == "delete":
        for path in [request, *folder.glob("node-*.json")]:
            path.unlink()
        shutil.rmtree(folder / "homes")
    elif kind == "list":
        ends = {"networkEndpoints": [{}] * hosts}
        print(json.dumps([json.loads(path.read_text()) | ends for path in folder.glob("node-*.json")]))
    elif kind == "scp":
        node, _, target = words[6].partition(":")
        for home in (folder / "homes" / node).iterdir():
            shutil.copy(words[5], home / target)
    elif kind == "ssh":
        codes = []
        for home in (folder / "homes" / name).iterdir():
            environment = {"HOME": str(home), "PATH": f"{home / 'bin'}:/usr/bin:/bin"}
            codes.append(subprocess.run(["bash", "-c", after("--command")], cwd=home, env=environment).returncode)
        sys.exit(next((code for code in codes if code), 0))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), [os.fsdecode(word) for word in ["gcloud", *sys.argv[3:]]])
