"""Runs: a fresh server on CPU 0, the load and the backend on CPU 1, the server's CPU time and memory around it."""

import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib import clients, pki
from lib.process import cpu_seconds, free_port, memory, spawn, stop, wait_for

WARMUP = 0.5
LIMIT = 90  # seconds that a run may take beyond its measured time, opening thousands of tunnels included
AROUND = 5  # seconds that a second load is longer than the measured one, so that it is there from before to after


class Failed(Exception):
    """A run that gave no figures."""


class Bench:
    def __init__(self, adit, seconds):
        self.adit, self.seconds = adit, seconds
        self.place = tempfile.TemporaryDirectory(prefix="adit-compare-")
        self.folder = Path(self.place.name)
        self.backends = {}
        self.remembered = {}

    def prepare(self):
        pki.make(self.adit, self.folder)
        for kind in ("echo", "sink", "source"):
            port = free_port()
            listen = f"127.0.0.1:{port}"
            spawn(self.adit, "load", "serve", "--listen", listen, "--kind", kind, "--core", "1", stderr=subprocess.DEVNULL)
            if not wait_for(port):
                sys.exit(f"perf/compare: the backend {kind} does not start")
            self.backends[kind] = port

    def start(self, peer, kind="echo", workers=1, cpu=0):
        port = free_port()
        server = peer.start(self.folder, port, self.backends[kind], workers, cpu)
        if not wait_for(port, server):
            stop(server)
            said = (self.folder / f"{peer.name}.out").read_text()[-1000:]
            raise Failed(f"does not start: {said}")
        time.sleep(0.2)
        return server, port

    def load(self, peer, port, kind, arguments, nice=0):
        return spawn(
            "nice", "-n", nice, self.adit, "load", "--target", f"127.0.0.1:{port}", "--mode", peer.mode,
            "--connect", peer.destination(self.backends[kind]), "--server-name", "localhost", "--groups", "x25519",
            "--tls", "1.3", "--ca", self.folder / "ca.pem", "--cert", self.folder / "device-1.pem",
            "--key", self.folder / "device-1.key", "--core", "1", "--warmup", WARMUP, "--json", "-", *arguments,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, peer, arguments, kind="echo", workers=1, beside=()):
        """The load's figures, with the server's CPU seconds over the measured time. `beside`: a second load around it."""
        server, port = self.start(peer, kind, workers)
        other = None
        try:
            if beside:
                other = self.load(peer, port, kind, ["--duration", self.seconds + AROUND, *beside], nice=10)
                time.sleep(1)
            load = self.load(peer, port, kind, ["--duration", self.seconds, *arguments])
            result = self.watch(load, server)
            if other:
                if other.poll() is not None:
                    raise Failed("the load beside it ended early")
                result["beside"] = json.loads(other.communicate(timeout=LIMIT)[0] or "{}")
            return result
        finally:
            if other:
                stop(other)
            stop(server)

    def pair(self, peer, arguments):
        """Two processes of the peer, one on each CPU, that share nothing: the same load on each, and both together."""
        servers = []
        try:
            for cpu in (0, 1):
                servers.append(self.start(peer, cpu=cpu))
            loads = [self.load(peer, port, "echo", ["--duration", self.seconds, *arguments]) for _, port in servers]
            with ThreadPoolExecutor(2) as both:
                results = list(both.map(self.watch, loads, [server for server, _ in servers]))
            return {key: sum(result[key] for result in results) for key in ("cpu", "operations")}
        finally:
            for server, _ in servers:
                stop(server)

    def watch(self, load, server):
        guard = threading.Timer(self.seconds + LIMIT, load.kill)
        guard.start()
        cpu, said = {}, []
        for line in load.stderr:
            said.append(line)
            cpu[line.strip()] = cpu_seconds(server.pid)
        output = load.stdout.read()
        guard.cancel()
        stop(load)
        if load.returncode or "measured" not in cpu:
            raise Failed("".join(said).strip()[-300:] or f"the load ended with {load.returncode}")
        result = json.loads(output)
        result["cpu"] = cpu["measured"] - cpu["measuring"]
        if not result["operations"]:
            raise Failed(f"nothing was done in the measured time: {result['errors_by_kind']}")
        return result

    def idle_memory(self, peer, count):
        """Bytes for each of `count` tunnels at the three stages of clients.hold."""
        server, port = self.start(peer)
        try:
            before = memory(server.pid)
            destination = peer.destination(self.backends["echo"]) if peer.mode != "tls" else None
            stages = clients.hold(self.folder, port, destination, count, lambda: memory(server.pid))
            return [{key: (stage[key] - before[key]) / count for key in before} for stage in stages]
        except OSError as error:
            raise Failed(f"{count} tunnels cannot be held: {error}") from error
        finally:
            stop(server)

    def check(self, peer):
        """What each kind of client gets, as a word; exits if the peer is not what it claims to be."""
        server, port = self.start(peer)
        try:
            destination = peer.destination(self.backends["echo"]) if peer.mode != "tls" else None
            got = {
                who: clients.opens(self.folder, device, port, destination)
                for who, device in (("good", "device-1"), ("missing", None), ("revoked", "device-2"))
            }
        finally:
            stop(server)
        expected = {"good": True, "missing": False, "revoked": not peer.refuses_revoked}
        if got != expected:
            said = (self.folder / f"{peer.name}.out").read_text()[-1000:]
            sys.exit(f"perf/compare: {peer.name} opened tunnels for {got}, not {expected}\n{said}")
        return "refused" if peer.refuses_revoked else "accepted"

    def once(self, key, make):
        """A figure that several rows build on, measured once."""
        if key not in self.remembered:
            self.remembered[key] = make()
        return self.remembered[key]
