"""What docker-py does with volumes and mounts; prints what it saw as JSON, with no ids in it."""

import json
import sys

import docker
from docker.types import Mount

client = docker.DockerClient(base_url=sys.argv[1], version="auto", timeout=60)
seen = {}


def refused(what):
    try:
        what()
    except docker.errors.APIError as error:
        return [type(error).__name__, error.response.status_code]
    return None


def mounts(container):
    container.reload()
    keys = ("Type", "Name", "Destination", "Driver", "Mode", "RW", "Propagation")
    found = [{key: one.get(key) for key in keys} for one in container.attrs["Mounts"]]
    return sorted(found, key=lambda one: one["Destination"])


def names(**filters):
    return sorted(one.name for one in client.volumes.list(filters=filters or None))


data = client.volumes.create("data", driver="local", labels={"made": "by-py"})
memory = client.volumes.create(
    "memory", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
data.reload()
seen["volume"] = {key: data.attrs[key] for key in ("Name", "Driver", "Scope", "Labels", "Options")}
seen["options"] = client.volumes.get("memory").attrs["Options"]
seen["anonymous"] = len(client.volumes.create().name)
seen["all"] = len(names())
seen["by label"] = names(label="made=by-py")
seen["by name"] = names(name="mem")
seen["no volume"] = refused(lambda: client.volumes.get("nosuch"))
seen["bad option"] = refused(lambda: client.volumes.create("bad", driver_opts={"foo": "1"}))[0]

one = client.containers.run(
    "busybox", "sleep 1000", name="one", detach=True,
    volumes={"data": {"bind": "/d", "mode": "rw"}, "/usr": {"bind": "/u", "mode": "ro"}},
    mounts=[
        Mount("/m", "memory", type="volume", read_only=True, no_copy=True),
    ])
seen["mounts of one"] = mounts(one)
seen["written"] = one.exec_run(["sh", "-c", "echo hello > /d/x; cat /d/x"]).output.decode()
room = Mount("/t", None, type="tmpfs", tmpfs_size="1m", tmpfs_mode=0o700)
seen["room"] = client.containers.run("busybox", "stat -c %a /t", mounts=[room], remove=True).decode()
seen["read-only"] = [one.exec_run(["touch", path]).exit_code for path in ("/u/x", "/m/x")]
seen["volume in use"] = refused(data.remove)
two = client.containers.run("busybox", "cat /d/x", volumes_from=["one:ro"], remove=True)
seen["taken over"] = two.decode()
seen["dangling"] = len(names(dangling=True))
one.remove(force=True, v=True)
seen["kept"] = len(names())
data.remove()
seen["removed"] = refused(lambda: client.volumes.get("data"))
memory.remove(force=True)
# Newer versions give sums instead of lists.
usage = docker.DockerClient(base_url=sys.argv[1], version="1.41").df()
seen["df"] = sorted(key for key in usage if key in ("LayersSize", "Images", "Containers", "Volumes"))
seen["one left"] = [one["UsageData"]["RefCount"] for one in usage["Volumes"]]
for volume in client.volumes.list():
    volume.remove()
seen["pruned volumes"] = client.volumes.prune()["VolumesDeleted"] or []
seen["pruned containers"] = client.containers.prune()["ContainersDeleted"] or []
print(json.dumps(seen))
