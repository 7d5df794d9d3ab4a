"""A container's life by Docker's SDK for Python; prints what it saw as JSON, with no ids in it."""

import io
import json
import sys
import tarfile
import time

import docker

client = docker.DockerClient(base_url=sys.argv[1], version="auto", timeout=60)
seen = {}
since = time.time()

# Attached before it starts: it talks, listens, and ends with a code of its own.
worker = client.containers.create(
    "busybox",
    ["sh", "-c", "echo out; echo err >&2; while read line; do echo got $line; done; exit 3"],
    name="worker", labels={"made": "by-sdk"}, environment={"A": "b"}, stdin_open=True)
socket = worker.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
worker.start()
raw = socket._sock
raw.sendall(b"one\n")
frames = {1: b"", 2: b""}
data = b""
while b"got one" not in frames[1] or b"\n" not in frames[2]:
    data += raw.recv(4096)
    while len(data) >= 8 and len(data) >= 8 + int.from_bytes(data[4:8], "big"):
        end = 8 + int.from_bytes(data[4:8], "big")
        frames[data[0]] += data[8:end]
        data = data[end:]
raw.sendall(b"two\n")
raw.shutdown(1)
seen["attached"] = {"out": frames[1].decode().split("\n")[:2], "err": frames[2].decode()}
seen["code"] = worker.wait()["StatusCode"]
raw.close()
seen["out"] = worker.logs(stderr=False).decode()
seen["err"] = worker.logs(stdout=False).decode()
seen["last"] = worker.logs(stderr=False, tail=1).decode()
worker.reload()
seen["state"] = [worker.status, worker.attrs["State"]["ExitCode"], worker.labels]

# Lines as they come.
talker = client.containers.run(
    "busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.05; done"], name="talker",
    detach=True)
seen["followed"] = b"".join(talker.logs(stream=True, follow=True)).decode()

box = client.containers.run("busybox", ["sleep", "1000"], name="box", detach=True)
code, (out, err) = box.exec_run(
    ["sh", "-c", "pwd; echo $V; echo no >&2; exit 7"], workdir="/tmp", environment={"V": "x"},
    demux=True)
seen["exec"] = [code, out.decode(), err.decode()]


def is_there(name, what):
    try:
        seen[name] = what()
    except docker.errors.APIError as error:
        if error.response.status_code != 501:
            raise
        seen[name] = "not available yet"


def archives():
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("given")
        entry.size, entry.mode = 5, 0o640
        archive.addfile(entry, io.BytesIO(b"there"))
    put = box.put_archive("/tmp", tar.getvalue())
    pieces, stat = box.get_archive("/tmp/given")
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        text = archive.extractfile("given").read().decode()
    inside = box.exec_run(["cat", "/tmp/given"]).output.decode()
    return [put, stat["name"], stat["size"], stat["mode"] & 0o777, text, inside]


def stats():
    one = box.stats(stream=False)
    stream = box.stats(stream=True, decode=True)
    return [one["name"], one["memory_stats"]["usage"] > 0, next(stream)["pids_stats"]["current"]]


is_there("archives", archives)
is_there("stats", stats)
seen["top"] = [line[-1] for line in box.top()["Processes"]]
box.kill()
seen["killed"] = box.wait()["StatusCode"]
for one in (worker, talker, box):
    one.remove()
try:
    client.containers.get("box")
except docker.errors.NotFound as error:
    seen["gone"] = error.response.status_code
events = client.events(
    since=since, until=time.time(), decode=True, filters={"container": "worker"})
told = [event["Action"] for event in events]
seen["events"] = [one for one in told if one in ("create", "attach", "start", "die", "destroy")]
print(json.dumps(seen))
