"""What docker-py does with networks; prints what it saw as JSON, with no ids in it."""

import json
import sys
import time

import docker
from docker.types import IPAMConfig, IPAMPool

client = docker.DockerClient(base_url=sys.argv[1], version="auto", timeout=60)
seen = {}


def refused(what):
    try:
        what()
    except docker.errors.APIError as error:
        return [type(error).__name__, error.response.status_code, error.explanation]
    return None


def endpoint(container, network):
    container.reload()
    found = container.attrs["NetworkSettings"]["Networks"][network]
    return {key: found[key] for key in ("IPAddress", "IPPrefixLen", "Gateway", "IPAMConfig", "Links")}


pools = [
    IPAMPool(subnet="10.91.0.0/16", iprange="10.91.5.0/24", gateway="10.91.0.254",
             aux_addresses={"router": "10.91.0.5"}),
    IPAMPool(subnet="fd91::/64"),
]
net = client.networks.create(
    "py", driver="bridge", ipam=IPAMConfig(pool_configs=pools), enable_ipv6=True, internal=True,
    labels={"made": "by-py"}, options={"com.docker.network.driver.mtu": "1400"}, check_duplicate=True)
net.reload()
seen["network"] = {key: net.attrs[key] for key in (
    "Name", "Driver", "Scope", "EnableIPv6", "Internal", "Attachable", "Labels", "Options",
    "Containers", "ConfigOnly")}
seen["pool"] = {key: net.attrs["IPAM"]["Config"][0][key] for key in (
    "Subnet", "IPRange", "Gateway", "AuxiliaryAddresses")}
seen["list"] = sorted(one.name for one in client.networks.list())
seen["by name"] = [one.name for one in client.networks.list(names=["py"])]
seen["by id"] = [one.name for one in client.networks.list(ids=[net.id])]
seen["by label"] = [one.name for one in client.networks.list(filters={"label": "made=by-py"})]
seen["greedy"] = [len(one.attrs["Containers"]) for one in client.networks.list(names=["py"], greedy=True)]
seen["got"] = client.networks.get(net.short_id).name
seen["twice"] = refused(lambda: client.networks.create("py", check_duplicate=True))
seen["no network"] = refused(lambda: client.networks.get("nosuch"))[:2]
seen["a predefined one"] = refused(lambda: client.networks.get("bridge").remove())

one = client.containers.run("busybox", "sleep 1000", name="one", detach=True, network="py",
                            ports={"80/tcp": ("127.0.0.1", 8191)})
seen["one"] = endpoint(one, "py")["IPAddress"]
two = client.containers.create("busybox", "sleep 1000", name="two")
net.connect(two, ipv4_address="10.91.5.77", ipv6_address="fd91::77", aliases=["second", "zwei"],
            links=[("one", "first")])
two.start()
seen["two"] = endpoint(two, "py")
seen["aliases"] = two.attrs["NetworkSettings"]["Networks"]["py"]["Aliases"][:2]
seen["networks of two"] = sorted(two.attrs["NetworkSettings"]["Networks"])
seen["names"] = [
    two.exec_run(["ping", "-c1", "-w60", name]).exit_code for name in ("one", "first", "second")]
seen["unknown"] = two.exec_run(["ping", "-c1", "-w5", "nobody"]).exit_code
net.reload()
seen["inside"] = sorted(container.name for container in net.containers)
seen["addresses"] = sorted(
    (each["Name"], each["IPv4Address"], each["IPv6Address"]) for each in net.attrs["Containers"].values())
seen["connected twice"] = refused(lambda: net.connect(two))
seen["address in use"] = refused(
    lambda: net.connect(client.containers.run("busybox", "sleep 1000", name="three", detach=True),
                        ipv4_address="10.91.5.77"))
seen["in use"] = refused(net.remove)[:2]
net.disconnect(two)
two.reload()
seen["after"] = sorted(two.attrs["NetworkSettings"]["Networks"])
seen["not connected"] = refused(lambda: net.disconnect(two))[:2]
low = client.api.create_container(
    "busybox", "sleep 1000", name="low", networking_config=client.api.create_networking_config({
        "py": client.api.create_endpoint_config(ipv4_address="10.91.5.78", aliases=["deep"])}),
    host_config=client.api.create_host_config(network_mode="py", port_bindings={90: None}))
client.api.start(low["Id"])
seen["low"] = endpoint(client.containers.get("low"), "py")
seen["filtered"] = sorted(each.name for each in client.containers.list(filters={"network": "py"}))
seen["by expression"] = [each.name for each in client.containers.list(filters={"name": "^/one$"})]
since = int(time.time())
client.networks.create("short").remove()
happened = client.events(since=since, until=int(time.time()) + 1, decode=True,
                         filters={"type": "network", "network": "short"})
seen["events"] = [(each["Action"], each["Actor"]["Attributes"]) for each in happened]
for each in client.containers.list(all=True):
    each.remove(force=True)
seen["pruned"] = client.networks.prune(filters={"label": "made=by-py"})["NetworksDeleted"]
seen["left"] = sorted(each.name for each in client.networks.list())
print(json.dumps(seen, indent=1, sort_keys=True))
