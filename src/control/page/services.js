// The servers behind the gateway, and which of them take new tunnels.

import { get, part } from "./api.js";
import { act } from "./change.js";
import { element, section } from "./dom.js";
import { count, duration } from "./format.js";
import { Table } from "./table.js";

export const title = "Services";
export const interval = 2000;

const TONES = { up: "good", "slow-start": "warn", trial: "warn", dead: "bad", drained: "plain" };

function lastCheck({ last_check: check }) {
  if (!check) return "";
  const result = check.passed ? `passed in ${check.took_ms} ms` : `failed: ${check.why}`;
  return `${duration(check.age_ms / 1000)} ago, ${result}`;
}

function table(service, refresh) {
  const set = (state, verb, sure) => async (server) => {
    await act({
      method: "PUT",
      path: `/servers/${part(server.service)}/${part(server.server)}`,
      body: { state },
      sure: sure?.(server),
      done: () => `${server.server} of ${server.service} ${verb}.`,
    });
    await refresh();
  };
  const sure = ({ server, tunnels }) => ["Drain this server?",
    `${server} gets no new tunnels. Its open ones (${count(tunnels)} now) go on.`, "Drain"];
  const isDrained = ({ state }) => state === "drained";
  const name = ({ server }) => `${server} of ${service}`;
  return new Table(`Servers of ${service}`, ({ server }) => server, [
    { head: "Server", value: ({ server }) => server },
    { head: "State", value: ({ state }) => ({ text: state, tone: TONES[state] }) },
    { head: "Why", value: ({ why }) => why },
    { head: "Share", number: true, value: ({ weight, share }) => `${share} % of ${weight}` },
    { head: "Tunnels", number: true, value: ({ tunnels }) => count(tunnels) },
    { head: "Reached", number: true, value: ({ connects }) => count(connects) },
    { head: "Not reached", number: true, value: ({ connect_failures: failures }) => count(failures) },
    { head: "Last check", value: lastCheck },
  ], [
    { text: (server) => (isDrained(server) ? "" : "Drain"), name, run: set("drained", "is drained", sure) },
    { text: (server) => (isDrained(server) ? "Bring back" : ""), name, run: set("up", "takes tunnels again") },
  ]);
}

export function build({ add }) {
  const tables = new Map();
  const none = element("p", { class: "empty", hidden: true }, "The profile has no servers.");
  add(none);
  const refresh = async () => {
    const servers = await get("/servers");
    const services = Map.groupBy(servers, ({ service }) => service);
    none.hidden = servers.length > 0;
    for (const [service, of] of services) {
      if (!tables.has(service)) {
        const made = table(service, refresh);
        const node = section(service, made.node);
        tables.set(service, { made, node });
        add(node);
      }
      tables.get(service).made.update(of);
    }
    for (const [service, { node }] of tables) {
      if (services.has(service)) continue;
      node.remove();
      tables.delete(service);
    }
  };
  return refresh;
}
