"""Processes of a comparison: started, pinned, counted and ended here."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

CHILDREN = []
TICK = 0.05  # seconds between two looks
START_LIMIT = 30  # seconds: Envoy takes its time on a busy machine
PORTS = (12000, 30000)


def spawn(*command, cpus=None, **options):
    """Starts a command, on these CPUs only ("0", "0,1")."""
    pinned = ["taskset", "-c", cpus] if cpus else []
    child = subprocess.Popen([*pinned, *map(str, command)], **options)
    CHILDREN.append(child)
    return child


def stop(child):
    """Ends a process and all that it has started."""
    pids = tree(child.pid)
    child.terminate()
    try:
        child.wait(1)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pid in pids[1:]:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    CHILDREN.remove(child)


def stop_all():
    for child in list(CHILDREN):
        stop(child)


def tree(pid):
    """The process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def cpu_seconds(pid):
    """CPU time of the process tree, threads that have ended included: each process's own CPU clock, in nanoseconds.

    The number of the clock is that of clock_getcpuclockid(3). The files under /proc/PID/task would lose what ended
    threads have used, and stunnel has a thread for each connection.
    """
    total = 0
    for each in tree(pid):
        try:
            total += time.clock_gettime_ns((~each << 3) | 2)
        except OSError:
            continue
    return total / 1e9


def memory(pid):
    """Resident and proportional bytes of the process tree."""
    sums = {"Rss:": 0, "Pss:": 0}
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            key, *rest = line.split()
            if key in sums:
                sums[key] += int(rest[0]) * 1024
    return {"rss": sums["Rss:"], "pss": sums["Pss:"]}


def free_port():
    """A port that nothing listens on, below those that the kernel gives to the thousands of outgoing connections."""
    for _ in range(1000):
        port = random.randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit("perf/compare: no free port")


def wait_for(port, child=None):
    """Waits until something listens: False if the process ended before, or not in time."""
    end = time.monotonic() + START_LIMIT
    while time.monotonic() < end:
        if child is not None and child.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(TICK)
    return False


def install(packages):
    """Installs Debian packages without letting their services start."""
    policy = Path("/usr/sbin/policy-rc.d")
    mine = not policy.exists()
    if mine:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        subprocess.run(["apt-get", "install", "-y", "-q", *packages], check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"perf/compare: cannot install {' '.join(packages)}: {error}")
    finally:
        if mine:
            policy.unlink()


def has(program):
    return shutil.which(program) is not None
