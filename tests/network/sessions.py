"""Sessions of one client program, many at once, over whatever network there is. Each opens a tunnel and is echoed some bytes.

Usage: sessions.py KIND ADDRESS PORT COUNT GO HTTP2, in a folder with ca.pem, device.pem (its chain) and device.key. KIND is
python, curl, openssl, go (GO is the program) or h2 (HTTP2 is interop/http2.py). Names each failure; ends with 1 if there is any.
"""

import concurrent.futures, socket, ssl, subprocess, sys

AT_ONCE = 8
LIMIT = 60
WORDS = b"some bytes of the tunnel" * 40
REQUEST = b"CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n"


def python(address, port):
    context = ssl.create_default_context(cafile="ca.pem")
    context.load_cert_chain("device.pem", "device.key")
    with socket.create_connection((address, port), LIMIT) as raw:
        with context.wrap_socket(raw, server_hostname=address) as stream:
            # At once: what TLS lets go together goes together.
            stream.sendall(REQUEST + WORDS)
            seen = b""
            while not seen.endswith(WORDS):
                more = stream.recv(65536)
                assert more, f"the end after {seen[:60]}"
                seen += more
            assert seen.startswith(b"HTTP/1.1 200"), seen[:60]


def run(*command):
    done = subprocess.run(command, capture_output=True, timeout=LIMIT + 5, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, (done.stdout + done.stderr)[-300:]
    return done.stdout


def curl(address, port):
    told = run(
        "curl", "-sS", "-m", str(LIMIT), "--proxytunnel", "--proxy", f"https://{address}:{port}", "--proxy-cacert", "ca.pem",
        "--proxy-cert", "device.pem", "--proxy-key", "device.key", "http://a.test/",
    )  # fmt: skip
    assert told == b"hello", told[:60]


def openssl(address, port):
    command = ["openssl", "s_client", "-quiet", "-CAfile", "ca.pem", "-verify_return_error", "-connect", f"{address}:{port}"]
    command += ["-cert", "device.pem", "-key", "device.key", "-cert_chain", "device.pem"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
        client.stdin.write(REQUEST + WORDS)
        client.stdin.flush()
        seen = b""
        while not seen.endswith(WORDS):
            more = client.stdout.read1(65536)
            if not more:
                break
            seen += more
        client.kill()
    assert seen.startswith(b"HTTP/1.1 200") and seen.endswith(WORDS), seen[:60]


def main():
    kind, address, port, count, go, http2 = sys.argv[1:]
    port, count = int(port), int(count)
    one = {
        "python": lambda: python(address, port),
        "curl": lambda: curl(address, port),
        "openssl": lambda: openssl(address, port),
        "go": lambda: run(go, address, str(port)),
        "h2": lambda: run(sys.executable, http2, "h2", f"{address}:{port}", "ca.pem", "device.pem", "device.key", "2", "900"),
    }[kind]
    failed = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(one) for _ in range(count)]:
            try:
                done.result()
            except Exception as error:
                failed.append(f"{type(error).__name__}: {error}")
    for error in failed[:3]:
        print(error)
    sys.exit(f"{len(failed)} of {count} failed" if failed else 0)


main()
