"""What tests do with Testcontainers for Python; prints what it saw as JSON, with no ids in it."""

import json
import os
import sys

os.environ["DOCKER_HOST"] = sys.argv[1]
# The helper that removes what a killed test has left: a stand-in, given by its image's name.
reaper = sys.argv[2]
if reaper == "none":
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
else:
    os.environ["RYUK_CONTAINER_IMAGE"] = reaper

from testcontainers.core.container import DockerContainer  # noqa: E402
from testcontainers.core.network import Network  # noqa: E402
from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: E402

seen = {}
server = (
    DockerContainer("busybox")
    .with_command(["sh", "-c", "echo ready; echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp"])
    .with_exposed_ports(80)
    .with_env("A", "b")
    .waiting_for(LogMessageWaitStrategy("ready"))
)
with Network() as network:
    with server.with_network(network).with_network_aliases("web"):
        code, out = server.exec(["sh", "-c", "echo $A; exit 4"])
        seen["exec"] = [code, out.decode()]
        seen["logs"] = [part.decode() for part in server.get_logs()]
        seen["port"] = 0 < int(server.get_exposed_port(80)) < 65536
        with DockerContainer("busybox").with_network(network).with_command("sleep 100") as other:
            # It says that it is ready before it listens.
            get = "until wget -qO- http://web/index.html 2>/dev/null; do sleep 0.1; done"
            seen["page"] = other.exec(["timeout", "60", "sh", "-c", get]).output.decode()
        labels = server.get_wrapped_container().labels
        seen["labelled"] = labels.get("org.testcontainers") == "true"
    left = server.get_docker_client().client.containers.list(
        all=True, filters={"label": "org.testcontainers=true", "ancestor": "busybox"})
    seen["left"] = len(left)
print(json.dumps(seen))
