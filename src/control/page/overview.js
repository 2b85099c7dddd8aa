// Whether the node takes tunnels, what it does, and what it refuses.

import { get } from "./api.js";
import { act } from "./change.js";
import { button, element, facts, pill, section } from "./dom.js";
import { bytes, count, duration, time } from "./format.js";
import { samples, sum } from "./metrics.js";
import { problems } from "./problems.js";
import { Table } from "./table.js";

export const title = "Overview";
export const interval = 2000;

const CRL_TONES = { current: "good", early: "bad", expired: "bad", missing: "bad" };

export function build({ add }) {
  const state = element("div", { class: "card" });
  const numbers = element("div", { class: "tiles" });
  const found = element("div", { role: "status" });
  const reload = async () => {
    found.replaceChildren();
    await act({
      method: "POST",
      path: "/reload",
      done: ({ generation }) => `The configuration was read again; generation ${generation} is active.`,
      failed: (failure) => found.replaceChildren(element("h3", {}, failure.message), problems(failure.body.problems)),
    });
  };
  const ends = new Table("Ends of sessions and tunnels by reason", ({ labels }) => labels.reason, [
    { head: "Reason", value: ({ labels }) => labels.reason },
    { head: "Kind", value: ({ labels }) => ({ text: labels.kind, tone: labels.kind === "refusal" ? "warn" : "plain" }) },
    { head: "Caused by", value: ({ labels }) => labels.who },
    { head: "Count", number: true, value: ({ value }) => count(value) },
  ], [], "No session has ended yet.");
  const crls = new Table("Revocation lists", ({ key }) => key, [
    { head: "Source", value: (crl) => crl.source },
    { head: "Issuer", value: (crl) => crl.issuer },
    { head: "State", value: (crl) => ({ text: crl.state, tone: CRL_TONES[crl.state] ?? "plain" }) },
    { head: "Kind", value: (crl) => (crl.delta ? "delta" : "full") },
    { head: "Entries", number: true, value: (crl) => count(crl.entries) },
    { head: "Made", value: (crl) => (crl.this_update ? time(crl.this_update) : "") },
    { head: "Next update", value: (crl) => (crl.next_update ? time(crl.next_update) : "") },
    { head: "Problem", value: (crl) => crl.problem },
  ], [], "No list is configured.");
  const served = new Table("Server certificates", ({ role, file }) => `${role} ${file}`, [
    { head: "Role", value: ({ role }) => role },
    { head: "File", value: ({ file }) => file },
    { head: "Shown to clients", value: (one) => (one.served ? { text: "served", tone: "good" } : "") },
    { head: "State", value: ({ state: said }) => ({ text: said, tone: said === "valid" ? "good" : "bad" }) },
    { head: "Days left", number: true, value: ({ days_left: days }) => count(days) },
    { head: "Ends", value: ({ not_after: end }) => time(end) },
  ], [], "No certificate is served.");
  add(state, section("Now", numbers), section("Ends", ends.node), section("Server certificates", served.node),
    section("Revocation lists", crls.node),
    section("Configuration", element("p", {}, "The config file and all that it names are read again. Where anything is "
      + "wrong, nothing changes."), element("div", { class: "buttons" }, button("Reload the configuration", reload)), found));

  return async () => {
    const [ready, health, text] = await Promise.all([get("/readyz", [503]), get("/healthz", [503]), get("/metrics")]);
    const metrics = samples(text);
    showState(state, ready, health);
    showNumbers(numbers, metrics);
    served.update(ready.certificates ?? []);
    const reasons = metrics.filter(({ name, value }) => name === "adit_ends_total" && value > 0);
    ends.update(reasons.sort((a, b) => b.value - a.value));
    crls.update(ready.crls.map((crl, at) => ({ ...crl, key: `${at} ${crl.source}` })));
  };
}

function showState(node, ready, { cores, silent_cores: silent }) {
  const word = ready.ready
    ? pill("takes new tunnels", "good")
    : pill("takes no new tunnels", "bad");
  const reasons = ready.reasons.length === 0
    ? null
    : element("ul", {}, ...ready.reasons.map((reason) => element("li", {}, reason)));
  const answer = silent.length === 0 ? `all ${cores} answer` : `${silent.join(", ")} of ${cores} do not answer`;
  node.replaceChildren(element("p", {}, "The node ", word), ...[reasons].filter(Boolean), facts([
    ["Cores", answer],
    ["Profile", ready.profile ? `${ready.profile.name}, version ${ready.profile.version ?? "of the file"}` : "none"],
    ["Configuration", `generation ${ready.config_generation}`],
    ["Version", ready.version],
    ["Running for", ready.uptime_seconds == null ? null : duration(ready.uptime_seconds)],
    ["Audit records lost", count(ready.audit_lost)],
  ]), ...refused(ready.refused));
}

/** The last change, where it was not taken. */
function refused(refusal) {
  if (!refusal) return [];
  return [element("h3", {}, `The change of ${time(refusal.at)} was refused`), problems(refusal.problems)];
}

function showNumbers(node, metrics) {
  const direction = (word) => metrics
    .filter(({ name, labels }) => name === "adit_bytes_total" && labels.direction === word)
    .reduce((total, { value }) => total + value, 0);
  const tiles = [
    ["Open tunnels", count(sum(metrics, "adit_tunnels_live"))],
    ["Open sessions", count(sum(metrics, "adit_sessions_live"))],
    ["Tunnels since the start", count(sum(metrics, "adit_tunnels_opened_total"))],
    ["Bytes to servers", bytes(direction("client-to-server"))],
    ["Bytes to apps", bytes(direction("server-to-client"))],
  ];
  node.replaceChildren(...tiles.map(([name, value]) =>
    element("div", { class: "tile" }, element("span", {}, name), element("strong", {}, value))));
}
