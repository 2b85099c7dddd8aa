"""A node with its authority, devices and servers in a folder of its own, for perf/soak and perf/attack."""

import contextlib
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lib.process import free_port, spawn, stop, wait_for

TOKEN = "0123456789abcdef0123456789abcdef"
PROXY = "127.0.0.2"  # the one address that may send a PROXY header
# Reasons that have no audit line.
SILENT = ("unused", "health-check", "source-failures", "source-limit", "unauthenticated-limit")

CONFIG = """state_dir = "state"
[engine]
cores = {cores}
drain_timeout = "20s"
handshake_timeout = "5s"
{engine}
[admin]
listen = "127.0.0.1:{admin}"
token_file = "token"
[log]
format = "text"
audit = "audit.log"
[profile]
name = "{name}"
external = "localhost:{port}"
[profile.listener]
https = "0.0.0.0:{port}"
proxy_protocol = "optional"
trusted_proxies = ["{proxy}/32"]
[profile.server_certificate]
primary = "localhost.pem"
key = "localhost.key"
[profile.device_auth]
group_certificates = ["ca.pem"]
unmanaged = "allow"
[profile.device_auth.crl]
files = ["ca.crl"]
{services}
"""


class Wrong(Exception):
    """What must hold does not."""


def poll(what, done, seconds=20.0):
    """Waits until `done()` is true; its value."""
    end = time.monotonic() + seconds
    while True:
        value = done()
        if value:
            return value
        if time.monotonic() > end:
            raise Wrong(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


class World:
    def __init__(self, adit, name, cores="1", engine=""):
        self.adit, self.name, self.cores, self.engine = adit, name, cores, engine
        self.place = tempfile.TemporaryDirectory(prefix=f"adit-{name}-")
        self.folder = Path(self.place.name)
        self.port, self.admin = free_port(), free_port()
        self.services = {}
        self.devices = []
        self.node = None
        self.contexts = {}
        self.certs("make-ca", "--name", "group")
        self.certs("issue", "server", "--name", "localhost", "--dns", "localhost", "--ip", "127.0.0.1")
        self.certs("revoke")
        token = self.folder / "token"
        token.write_text(TOKEN)
        token.chmod(0o600)

    def certs(self, *words):
        subprocess.run([self.adit, "certs", *words], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def device(self, name):
        """A new device with a certificate, and its name."""
        self.certs("issue", "client", "--name", name, "--app", "mail")
        self.devices.append(name)
        return name

    def context(self, device, protocols=("http/1.1",), version=None):
        """TLS of a device. One for each, so that sessions are not resumed by chance between devices."""
        key = (device, protocols, version)
        if key not in self.contexts:
            context = ssl.create_default_context(cafile=self.folder / "ca.pem")
            if device:
                context.load_cert_chain(self.folder / f"{device}.pem", self.folder / f"{device}.key")
            context.set_alpn_protocols(list(protocols))
            if version:
                context.maximum_version = version
            self.contexts[key] = context
        return self.contexts[key]

    def serve(self, name, port):
        """A service of this port of ours, with a rule for *.NAME.test."""
        self.services[name] = port

    def backend(self, kind):
        """A server of `adit load serve`; its port."""
        port = free_port()
        serve = [self.adit, "load", "serve", "--listen", f"127.0.0.1:{port}", "--kind", kind]
        spawn(*serve, stderr=subprocess.DEVNULL)
        if not wait_for(port):
            raise Wrong(f"the server '{kind}' does not start")
        return port

    def write_config(self, without=()):
        tables = []
        for name, port in self.services.items():
            servers = "" if port is None else f'servers = ["127.0.0.1:{port}"]\n'
            service = "<ANY>" if port is None else name
            tables.append(f'[[profile.service]]\nname = "{service}"\n{servers}')
            if name not in without:
                tables.append(f'[[profile.rule]]\nhost = "*.{name}.test"\nport = "*"\nservice = "{service}"\n')
        text = CONFIG.format(
            cores=self.cores, admin=self.admin, name=self.name, port=self.port, proxy=PROXY, engine=self.engine,
            services="\n".join(tables),
        )  # fmt: skip
        new = self.folder / "adit.toml.new"
        new.write_text(text)
        new.rename(self.folder / "adit.toml")

    def start(self, cpus=None):
        self.write_config()
        self.log = open(self.folder / "node.log", "ab")
        run = [self.adit, "run", "--config", self.folder / "adit.toml"]
        self.node = spawn(*run, cpus=cpus, stdout=self.log, stderr=self.log)
        if not wait_for(self.port, self.node):
            raise Wrong(f"the node does not start: {self.said()}")
        poll("ready", lambda: self.ask("GET", "/readyz")[0] == 200)

    def said(self):
        return (self.folder / "node.log").read_text()[-2000:]

    def pid(self):
        """The process that serves: another one after an upgrade."""
        words = (self.folder / "state/adit.lock").read_text().split()
        return int(words[0]) if words else None

    def ask(self, method, path, body=None, kind="application/json"):
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        if body is not None:
            headers["Content-Type"] = kind
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def change(self, method, path, body=None):
        status, text = self.ask(method, path, body)
        if status != 200:
            raise Wrong(f"{method} {path}: {status} {text}")
        return text

    def metrics(self):
        """All samples: {name: {labels: value}}."""
        found = {}
        for line in self.ask("GET", "/metrics")[1].splitlines():
            if match := re.fullmatch(r"([a-z0-9_]+)(\{.*\})? (\S+)", line):
                found.setdefault(match[1], {})[match[2] or ""] = float(match[3])
        return found

    def metric(self, name):
        return sum(self.metrics().get(name, {}).values())

    def memory(self, pid=None):
        """Resident bytes of the process that serves."""
        text = Path(f"/proc/{pid or self.pid()}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024

    def audit(self):
        lines = []
        for line in (self.folder / "audit.log").read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                raise Wrong(f"an audit line is not whole: {line[:200]}") from None
        return lines

    def signal(self, number):
        os.kill(self.pid(), number)

    def upgrade(self):
        """A new process in the place of the one that serves. The old one's number."""
        before = self.pid()
        self.signal(signal.SIGUSR2)
        poll("a new process serves", lambda: self.pid() not in (None, before), 30)
        poll("it answers", lambda: self.ready(), 30)
        return before

    def ready(self):
        try:
            return self.ask("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def end(self):
        with contextlib.suppress(Exception):
            pid = self.pid()
            if self.node and pid != self.node.pid:
                os.kill(pid, signal.SIGKILL)
        if self.node:
            stop(self.node)
        self.place.cleanup()


def ends_agree(world, since=0):
    """Each end in the counters has its audit line, and the other way round. Raises [`Wrong`] with the difference."""
    counted, written = {}, {}
    for labels, value in world.metrics().get("adit_ends_total", {}).items():
        reason = re.search(r'reason="([^"]+)"', labels)[1]
        if value and reason not in SILENT:
            counted[reason] = counted.get(reason, 0) + int(value)
    for line in world.audit()[since:]:
        # The end of an HTTP/2 session is an end of its own only where it had no request.
        alone = line["event.action"] == "session-end" and line["adit.requests"] == 0
        if alone or line["event.action"] in ("tunnel-end", "refused"):
            written[line["event.reason"]] = written.get(line["event.reason"], 0) + 1
        if line["event.action"] == "refused-more":
            written[line["event.reason"]] = written.get(line["event.reason"], 0) + line["adit.count"]
    if counted != written:
        keys = sorted(counted.keys() | written.keys())
        differ = {key: (counted.get(key, 0), written.get(key, 0)) for key in keys if counted.get(key) != written.get(key)}
        raise Wrong(f"ends counted and ends in the audit log differ: {differ}")


def say(text):
    print(text, flush=True)


def fail(program, error):
    print(f"{program}: WRONG: {error}", file=sys.stderr, flush=True)
