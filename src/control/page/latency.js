// How long each stage of a session takes: since the node's start as percentiles, and over time as a heat map.

import { get } from "./api.js";
import { element, field, section, select } from "./dom.js";
import { count, micros } from "./format.js";
import { Heat } from "./heat.js";
import { Percentiles } from "./percentiles.js";
import { Table } from "./table.js";

export const title = "Latency";
export const interval = 2000;

/** How often the buckets are read, in milliseconds, and how many of such moments are kept: ten minutes. */
const MOMENT = 2000;
const MOMENTS = 300;

const history = { bounds: [], moments: [], last: null };

async function read() {
  const { bounds, stages } = await get("/histograms?format=buckets");
  const now = { at: Date.now(), stages };
  const { last } = history;
  history.last = now;
  if (!last || bounds.length !== history.bounds.length) {
    Object.assign(history, { bounds, moments: [] });
    return;
  }
  const came = {};
  for (const [stage, counts] of Object.entries(stages)) {
    came[stage] = counts.map((number, place) => number - (last.stages[stage]?.[place] ?? 0));
  }
  // Less than before: the node has started anew.
  if (Object.values(came).flat().some((number) => number < 0)) {
    history.moments = [];
    return;
  }
  history.moments.push({ from: last.at, to: now.at, came });
  if (history.moments.length > MOMENTS) history.moments.shift();
}

/** Reads the buckets from now on, whichever view is open, so that the heat map has a past. */
export async function watch() {
  for (;;) {
    if (!document.hidden) await read().catch(() => {});
    await new Promise((done) => setTimeout(done, MOMENT));
  }
}

/** In the order of a session's way. */
const STAGES = ["handshake", "authorize", "connect", "first-byte", "lifetime"];

const QUANTILES = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];

export function build({ add, query, isOpen }) {
  const table = new Table("Latency of each stage", ({ stage }) => stage, [
    { head: "Stage", value: ({ stage }) => stage },
    { head: "Count", number: true, value: (summary) => count(summary.count) },
    ...QUANTILES.map((name) => ({
      head: name,
      number: true,
      value: (summary) => (summary.count > 0 ? micros(summary[name]) : ""),
    })),
  ]);
  const percentiles = new Percentiles();
  const heat = new Heat(history);
  const stage = select(STAGES);
  const asked = query.get("stage");
  stage.value = STAGES.includes(asked) ? asked : "connect";
  const draw = () => heat.show(stage.value);
  stage.addEventListener("change", draw);

  add(section("Since the start", table.node), section("Percentiles", percentiles.node),
    section("Over time", field("Stage", stage), heat.node,
      element("p", { class: "hint" }, "Each column is what came between two looks of this page at the node.")));
  const resized = new ResizeObserver(() => {
    percentiles.draw();
    draw();
  });
  resized.observe(percentiles.node);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => isOpen() && draw());

  return async () => {
    const [summaries, points] = await Promise.all([get("/histograms"), get("/histograms?format=percentiles")]);
    if (!isOpen()) {
      resized.disconnect();
      return;
    }
    table.update(STAGES.map((name) => ({ stage: name, ...summaries.stages[name] })));
    percentiles.update(Object.fromEntries(STAGES.map((name) => [name, points.stages[name]])));
    draw();
  };
}
