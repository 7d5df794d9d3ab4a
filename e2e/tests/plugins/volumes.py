"""A volume plugin by Docker's protocol, with real mounts, that misbehaves when it is told to.

usage: volumes.py SOCKET STATE
       volumes.py PORT STATE [DIRECTORY]   (cert, key and ca in it: TLS, also of who asks)

STATE/data has the volumes' data, STATE/mnt the mounts, STATE/calls what was asked; a line in
STATE/behave names a call and what to do instead of answering it.
"""

import http.server
import json
import os
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
import time

address, state = sys.argv[1:3]
lock = threading.Lock()


def below(*parts):
    return os.path.join(state, *parts)


class Volumes:
    """What survives the plugin: volumes with their options, and for whom each is mounted."""

    def __init__(self):
        os.makedirs(below("data"), exist_ok=True)
        os.makedirs(below("mnt"), exist_ok=True)
        self.known = {}
        if os.path.exists(below("known")):
            with open(below("known")) as file:
                self.known = json.load(file)

    def save(self):
        with open(below("known.new"), "w") as file:
            json.dump(self.known, file)
        os.rename(below("known.new"), below("known"))

    def find(self, asked):
        if asked["Name"] not in self.known:
            raise KeyError("no volume " + asked["Name"])
        return self.known[asked["Name"]]

    def shown(self, name):
        volume = self.known[name]
        return {
            "Name": name,
            "Mountpoint": below("mnt", name) if volume["ids"] else "",
            "CreatedAt": "2026-01-02T03:04:05Z",
            "Status": {"options": volume["options"], "mounts": len(volume["ids"])},
        }

    def create(self, asked):
        options = asked.get("Opts") or {}
        if "refuse" in options:
            raise ValueError(options["refuse"])
        os.makedirs(below("data", asked["Name"]))
        os.makedirs(below("mnt", asked["Name"]))
        self.known[asked["Name"]] = {"options": options, "ids": []}
        return {}

    def remove(self, asked):
        if self.find(asked)["ids"]:
            raise ValueError("it is mounted")
        del self.known[asked["Name"]]
        shutil.rmtree(below("data", asked["Name"]))
        os.rmdir(below("mnt", asked["Name"]))
        return {}

    def mount(self, asked):
        volume, place = self.find(asked), below("mnt", asked["Name"])
        if not volume["ids"]:
            subprocess.check_call(["mount", "--bind", below("data", asked["Name"]), place])
        if asked["ID"] not in volume["ids"]:
            volume["ids"].append(asked["ID"])
        return {"Mountpoint": place}

    def unmount(self, asked):
        volume = self.find(asked)
        if asked["ID"] not in volume["ids"]:
            raise ValueError("not mounted for " + asked["ID"])
        volume["ids"].remove(asked["ID"])
        if not volume["ids"]:
            subprocess.check_call(["umount", below("mnt", asked["Name"])])
        return {}

    def answer(self, method, asked):
        if method == "Plugin.Activate":
            return {"Implements": ["VolumeDriver"]}
        if method == "VolumeDriver.Capabilities":
            return {"Capabilities": {"Scope": "global"}}
        if method == "VolumeDriver.List":
            return {"Volumes": [self.shown(name) for name in self.known]}
        if method == "VolumeDriver.Get":
            self.find(asked)
            return {"Volume": self.shown(asked["Name"])}
        if method == "VolumeDriver.Path":
            return {"Mountpoint": self.shown(asked["Name"])["Mountpoint"]}
        done = getattr(self, method.split(".")[1].lower())(asked)
        self.save()
        return done


volumes = Volumes()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        method = self.path[1:]
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        with open(below("calls"), "a") as file:
            file.write(f"{method} {asked.get('Name', '')} {asked.get('ID', '')}\n")
        behave = ""
        if os.path.exists(below("behave")):
            with open(below("behave")) as file:
                called, _, what = file.read().strip().partition(" ")
                behave = what if called == method else ""
        if behave == "hang":
            time.sleep(1000)
        elif behave == "die":
            os._exit(1)
        elif behave == "endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b" " * 65536)
            except OSError:
                return
        elif behave.startswith("say "):
            return self.say(200, behave[4:])
        with lock:
            try:
                self.say(200, json.dumps(volumes.answer(method, asked)))
            except Exception as error:
                self.say(500, json.dumps({"Err": error.args[0]}))

    def say(self, status, text):
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Tcp(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


if address.isdigit():
    server = Tcp(("127.0.0.1", int(address)), Handler)
    if len(sys.argv) > 3:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(sys.argv[3], "cert"), os.path.join(sys.argv[3], "key"))
        context.load_verify_locations(os.path.join(sys.argv[3], "ca"))
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
else:
    if os.path.exists(address):
        os.remove(address)
    # Nobody finds it before it answers.
    server = Server(address + ".new", Handler)
    os.rename(address + ".new", address)
server.serve_forever()
