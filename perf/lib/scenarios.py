"""The rows: what load is put on each peer, and which figures are read from it."""

from dataclasses import dataclass
from typing import Callable

from lib import pki
from lib.measure import Failed

LATENCY = (("p50", "p50"), ("p99", "p99"), ("p99.9", "p99_9"))
CURVE = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1)  # of HAProxy's own top rate
MANY_REVOKED = 1_000_000
STORM_RATE = 2000  # round trips a second over the 500 open tunnels: far from what a core can do
LOWER, HIGHER = "lower", "higher"


@dataclass
class Figure:
    name: str
    of: Callable
    better: str = LOWER


@dataclass
class Row:
    scenario: str
    name: str
    run: Callable  # (bench, peer) -> what the figures are read from
    figures: list
    only: tuple = ()  # peers, if not all


def per_operation(result):
    return result["cpu"] / result["operations"] * 1e6


def load(*arguments, kind="echo", workers=1):
    words = [str(word) for word in arguments]
    return lambda bench, peer: bench.run(peer, words, kind=kind, workers=workers)


def echo(tunnels, size=64, rate=None):
    words = ["--scenario", "echo", "--size", str(size), "--tunnels", str(tunnels)]
    return words + (["--rate", f"{rate:.0f}"] if rate else [])


def percentiles():
    return [Figure(f"{name} µs", lambda r, key=key: r["latency_us"][key]) for name, key in LATENCY]


def top_rate(bench, haproxy):
    """64 B round trips a second that HAProxy does over 100 tunnels in a closed loop, in this run."""
    return bench.once("top rate", lambda: bench.run(haproxy, echo(100))["rate"])


def opens(options):
    figures = [Figure("a second", lambda r: r["rate"], HIGHER), Figure("CPU µs each", per_operation)]
    base = ["--scenario", "handshake", "--tunnels", "16"]
    yield Row("opens", "full handshake + tunnel", load(*base), figures)

    def resumed(bench, peer):
        result = bench.run(peer, [*base, "--resumed"])
        if result["resumed"] < 0.9 * result["operations"]:
            raise Failed(f"resumed {result['resumed']} of {result['operations']} sessions")
        return result

    yield Row("opens", "resumed handshake + tunnel", resumed, figures)


def revocation(options):
    """Full handshakes with the CRL of the other rows, which has one entry, and with one of a million and one."""
    base = ["--scenario", "handshake", "--tunnels", "16"]

    def run(bench, peer):
        short = per_operation(bench.run(peer, base))
        kept = pki.lengthen_crl(bench.folder, MANY_REVOKED)
        try:
            long = per_operation(bench.run(peer, base))
        finally:
            (bench.folder / "ca.crl").write_text(kept)
        return {"short": short, "long": long}

    figures = [
        Figure("CPU µs each, 1 entry", lambda r: r["short"]),
        Figure("CPU µs each, 1,000,001 entries", lambda r: r["long"]),
        Figure("the second by the first", lambda r: r["long"] / r["short"]),
    ]
    yield Row("crl", "full handshake with a CRL", run, figures, only=("adit", "baseline", "haproxy", "webpki"))


def round_trips(options):
    for size, label in ((64, "64 B"), (16384, "16 KiB")):
        for tunnels in (1, 100, 1000):
            name = f"{label} round trip, {tunnels} tunnel{'s' if tunnels > 1 else ''}"
            yield Row("echo", name, load(*echo(tunnels, size)), [Figure("CPU µs each", per_operation)])


def streams(options):
    figures = [Figure("GB per CPU second", lambda r: r["bytes"] / r["cpu"] / 1e9, HIGHER)]
    for direction, kind in (("up", "sink"), ("down", "source")):
        words = ["--scenario", "stream", "--direction", direction, "--tunnels", "4"]
        yield Row("stream", f"stream {direction}", load(*words, kind=kind), figures)


def http2(options):
    """Tunnels over HTTP/2, up to a hundred in one session, beside adit's over HTTP/1.1, each in a session of its own."""
    only = ("adit", "adit-http2", "envoy-http2")
    figures = [
        Figure("GB per CPU second", lambda r: r["bytes"] / r["cpu"] / 1e9, HIGHER),
        Figure("GB a second", lambda r: r["bytes"] / r["seconds"] / 1e9, HIGHER),
    ]
    for tunnels in (1, 100):
        for direction, kind in (("up", "sink"), ("down", "source")):
            words = ["--scenario", "stream", "--direction", direction, "--tunnels", tunnels]
            name = f"stream {direction}, {tunnels} tunnel{'s' if tunnels > 1 else ''}, HTTP/2"
            yield Row("http2", name, load(*words, kind=kind), figures, only)
    figures = [Figure("CPU µs each", per_operation), Figure("a second", lambda r: r["rate"], HIGHER)]
    yield Row("http2", "64 B round trip, 100 tunnels, HTTP/2", load(*echo(100)), figures, only)


def latency(options):
    name = f"64 B at {options.rate} a second, 100 tunnels"
    yield Row("latency", name, load(*echo(100, rate=options.rate)), percentiles())

    def half(bench, peer):
        return bench.run(peer, echo(100, rate=top_rate(bench, options.haproxy) / 2))

    yield Row("latency", "64 B at half of HAProxy's top rate", half, percentiles())


def memory(options):
    stages = ("idle", "after 16 KiB each way", "10 s later")
    figures = [
        Figure(f"{stage}, {key.upper()} kB", lambda r, at=at, key=key: r[at][key] / 1e3)
        for at, stage in enumerate(stages)
        for key in ("rss", "pss")
    ]
    for count in (1000,) if options.quick else (4000, 8000):
        run = lambda bench, peer, count=count: bench.idle_memory(peer, count)  # noqa: E731
        yield Row("memory", f"each of {count} tunnels", run, figures)


def storm(options):
    """p99 on 500 open tunnels, alone and while full handshakes arrive at the rate that half a core serves."""

    base = ["--scenario", "handshake", "--tunnels", "16"]

    def half(bench, peer):
        cost = bench.once(f"{peer.name} handshake", lambda: per_operation(bench.run(peer, base)))
        return 0.5e6 / cost

    def under(bench, peer, rate):
        beside = ["--scenario", "handshake", "--tunnels", "64", "--rate", f"{rate:.0f}"]
        return bench.run(peer, echo(500, rate=STORM_RATE), beside=beside)

    def run(bench, peer):
        rate = half(bench, peer)
        return {
            "rate": rate,
            "calm": bench.run(peer, echo(500, rate=STORM_RATE)),
            "storm": under(bench, peer, rate),
            "same": under(bench, peer, half(bench, options.haproxy)),
        }

    figures = [
        Figure("p99 µs alone", lambda r: r["calm"]["latency_us"]["p99"]),
        Figure("p99 µs in the storm", lambda r: r["storm"]["latency_us"]["p99"]),
        Figure("p99 µs in HAProxy's storm", lambda r: r["same"]["latency_us"]["p99"]),
        Figure("handshakes a second, offered", lambda r: r["rate"], HIGHER),
        Figure("handshakes a second, done", lambda r: r["storm"]["beside"].get("rate", 0), HIGHER),
    ]
    yield Row("storm", "64 B on 500 tunnels, handshake storm", run, figures, only=("adit", "baseline", "haproxy"))


def workers(options):
    figures = [Figure("CPU µs each", per_operation)]
    only = ("adit", "baseline", "haproxy", "envoy", "nginx")
    for count, label in ((1, "one worker"), (2, "two workers")):
        run = load(*echo(100, rate=options.rate), workers=count)
        yield Row("workers", f"64 B at {options.rate} a second, {label}", run, figures, only)
        run = load("--scenario", "handshake", "--tunnels", "16", workers=count)
        yield Row("workers", f"full handshake + tunnel, {label}", run, figures, only)
    pair = lambda bench, peer: bench.pair(peer, ["--scenario", "handshake", "--tunnels", "8"])  # noqa: E731
    yield Row("workers", "full handshake + tunnel, two processes", pair, figures, only=("adit", "baseline"))


ALL = {
    "opens": opens, "echo": round_trips, "stream": streams, "http2": http2, "latency": latency,
    "memory": memory, "crl": revocation, "storm": storm, "workers": workers,
}  # fmt: skip


def curve(bench, peer, haproxy, shares):
    """Latency over offered rate; ends where the peer no longer keeps up, since the rest is only a longer queue."""
    points = []
    for share in shares:
        offered = share * top_rate(bench, haproxy)
        result = bench.run(peer, echo(100, rate=offered))
        point = {"offered": round(offered), "done": round(result["rate"])}
        points.append({**point, **{key: result["latency_us"][key] for _, key in LATENCY}})
        if result["rate"] < 0.97 * offered:
            break
    return points
