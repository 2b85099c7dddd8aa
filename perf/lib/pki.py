"""One authority, one server, a device and a revoked device: the same files for every peer."""

import subprocess


def make(adit, folder):
    def certs(*words):
        subprocess.run([adit, "certs", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)

    certs("make-ca", "--name", "group")
    certs("issue", "server", "--name", "localhost", "--dns", "localhost", "--ip", "127.0.0.1")
    certs("issue", "client", "--name", "device-1", "--app", "bench")
    certs("issue", "client", "--name", "device-2", "--app", "bench")
    certs("revoke", "device-2.pem")
    both = (folder / "localhost.pem").read_text() + (folder / "localhost.key").read_text()
    (folder / "both.pem").write_text(both)
    (folder / "hosts").write_text("127.0.0.1 bench.test\n")
    # squid gives its rights up before it reads its key.
    folder.chmod(0o755)
    for name in ("localhost.key", "both.pem"):
        (folder / name).chmod(0o644)
