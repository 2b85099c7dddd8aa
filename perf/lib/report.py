"""What is written: results.json (medians and spreads, no raw runs), table.md, and the plots drawn from the first."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from lib.peers import BEST_OF, ROOT
from lib.scenarios import HIGHER


def round_to(value, digits=4):
    return float(f"{value:.{digits}g}")


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} CPUs, {memory:.0f} GiB"


def header(peers, options):
    # What the command line names is written as it was given, without the folders of this machine.
    words = ["perf/compare", *(Path(word).name if word.startswith("/") else word for word in sys.argv[1:])]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "kernel": platform.release(),
        "command": " ".join(words),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": {peer.name: peer.version() for peer in peers},
    }


def summary(row, figure, runs):
    """Median and spread of one figure for each peer that gave any."""
    values = {}
    for peer, results in runs.items():
        each = sorted(figure.of(result) for result in results)
        if each:
            low, high = round_to(each[0]), round_to(each[-1])
            values[peer] = {"median": round_to(statistics.median(each)), "low": low, "high": high}
    entry = {"scenario": row.scenario, "row": row.name, "figure": figure.name, "better": figure.better, "values": values}
    ours = runs.get(adit_of(runs), [])
    for name, others in rivals(values, figure.better).items():
        pairs = [figure.of(a) / figure.of(b) for a, b in zip(ours, runs[others]) if figure.of(b)]
        if pairs:
            ratio = values[adit_of(values)]["median"] / (values[others]["median"] or 1)
            spread = {"low": round_to(min(pairs), 3), "high": round_to(max(pairs), 3)}
            entry[name] = {"peer": others, "ratio": round_to(ratio, 3), **spread}
    return entry


def adit_of(values):
    """Which adit is set against the others: in the rows of HTTP/2, that one."""
    return "adit-http2" if "adit-http2" in values else "adit"


def rivals(values, better):
    """Whom adit is set against: the best of those that the goals name, and the bound."""
    found = {}
    if adit_of(values) not in values:
        return found
    known = [peer for peer in BEST_OF if peer in values] or [p for p in values if p not in ("adit", "adit-http2", "bound")]
    if known:
        choose = max if better == HIGHER else min
        found["best"] = choose(known, key=lambda peer: values[peer]["median"])
    if "bound" in values:
        found["bound"] = "bound"
    return found


def table(results):
    head = results["header"]
    names = list(head["versions"])
    lines = [
        "# adit and its peers", "",
        f"{head['date']}, {head['machine']}, Linux {head['kernel']}: `{head['command']}`. "
        f"Medians of {2 * head['rounds']} runs of {head['seconds']} s; [how to read this](../README.md).", "",
        "| load | figure | " + " | ".join(names) + " | adit : best | spread | adit : bound |",
        "|---|---|" + "---|" * (len(names) + 3),
    ]  # fmt: skip
    for row in results["rows"]:
        cells = [f"{row['values'][name]['median']:g}" if name in row["values"] else "–" for name in names]
        best, bound = row.get("best"), row.get("bound")
        ratio = f"{best['ratio']:.2f} ({best['peer']})" if best else "–"
        spread = f"{best['low']:.2f} – {best['high']:.2f}" if best else "–"
        last = f"{bound['ratio']:.2f}" if bound else "–"
        lines.append(f"| {row['row']} | {row['figure']} | {' | '.join(cells)} | {ratio} | {spread} | {last} |")
    if results["failures"]:
        lines += ["", "What gave no figures:", ""]
        lines += [f"- {line}" for line in results["failures"]]
    lines += ["", "| peer | version | revoked certificate |", "|---|---|---|"]
    lines += [f"| {name} | {version} | {results['revoked'].get(name, '–')} |" for name, version in head["versions"].items()]
    return "\n".join(lines) + "\n"


def write(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in results["rows"])
    curves = ",\n".join(f"{json.dumps(name)}:{json.dumps(points)}" for name, points in results["curves"].items())
    rest = {key: value for key, value in results.items() if key not in ("rows", "curves")}
    text = json.dumps(rest, indent=1, ensure_ascii=False).rstrip("}\n")
    # One line a row: a diff of two comparisons can be read.
    (folder / "results.json").write_text(f'{text},\n "rows": [\n{rows}\n],\n "curves": {{\n{curves}\n}}\n}}\n')
    json.loads((folder / "results.json").read_text())
    (folder / "table.md").write_text(table(results))


def plot(folder):
    command = ["cargo", "run", "--quiet", "--example", "plot", "--", folder / "results.json", folder]
    if subprocess.run(command, cwd=ROOT).returncode:
        print("perf/compare: the plots could not be drawn; the figures are written", file=sys.stderr)
