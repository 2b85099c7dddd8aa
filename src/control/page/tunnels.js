// The open tunnels: chosen by who has them, closed one by one or all that are chosen.

import { getCounted } from "./api.js";
import { act } from "./change.js";
import { button, element, field, form, section } from "./dom.js";
import { bytes, count, duration, plural } from "./format.js";
import { Table } from "./table.js";

export const title = "Tunnels";
export const interval = 2000;

/** Tunnels that are shown, the oldest first. */
const LISTED = 200;

const FILTERS = [["device", "Device"], ["user", "User"], ["app", "App"], ["service", "Service"], ["serial", "Serial number"]];

function table(refresh) {
  const close = async ({ id, device }) => {
    await act({
      method: "DELETE",
      path: `/tunnels/${id}`,
      sure: ["Close this tunnel?", `Tunnel ${id} of ${device} ends at once. The app may open another.`, "Close"],
      done: ({ closed }) => (closed > 0 ? `Tunnel ${id} is closed.` : `Tunnel ${id} had ended.`),
    });
    await refresh();
  };
  return new Table("Open tunnels", ({ id }) => id, [
    { head: "Tunnel", value: ({ id }) => id },
    { head: "Device", value: ({ device }) => device },
    { head: "User", value: ({ user }) => user },
    { head: "App", value: ({ app }) => app },
    { head: "Service", value: ({ service }) => service },
    { head: "Server", value: ({ server }) => server },
    { head: "Open for", number: true, value: ({ age_ms: age }) => duration(age / 1000) },
    { head: "To server", number: true, value: ({ bytes_up: up }) => bytes(up) },
    { head: "To app", number: true, value: ({ bytes_down: down }) => bytes(down) },
    { head: "Peer", value: ({ peer }) => peer },
    { head: "Core", number: true, value: ({ core }) => core },
  ], [
    { text: () => "Close", danger: true, name: ({ id, device }) => `tunnel ${id} of ${device}`, run: close },
  ], "No such tunnel is open.");
}

export function build({ add, query }) {
  const inputs = FILTERS.map(([name, label]) => {
    const input = element("input", { type: "search", name, value: query.get(name) ?? "", spellcheck: "false" });
    return [name, label, input];
  });
  const total = element("p", { class: "hint", role: "status" });
  const chosen = () => {
    const given = inputs.filter(([, , input]) => input.value !== "");
    return new URLSearchParams(given.map(([name, , input]) => [name, input.value]));
  };
  // A space is %20 to the node, which knows no forms.
  const text = (parameters) => parameters.toString().replaceAll("+", "%20");

  const all = button("Close all of these", async () => {
    const filter = chosen();
    const words = [...filter].map(([name, value]) => `${name} ${value}`).join(", ");
    await act({
      method: "DELETE",
      path: `/tunnels?${text(filter)}`,
      sure: ["Close all of these tunnels?", `Every open tunnel of ${words} ends at once.`, "Close all"],
      done: ({ closed }) => `${plural(closed, "tunnel")} closed.`,
    });
    await refresh();
  }, { class: "danger" });
  const why = element("small", { id: "close-all-hint" }, "A field is compared as a whole. Fill one in to close all that it chooses.");
  all.setAttribute("aria-describedby", why.id);

  let asked = 0;
  const refresh = async () => {
    asked += 1;
    const mine = asked;
    const filter = chosen();
    const limited = new URLSearchParams([...filter, ["limit", LISTED]]);
    const [tunnels, open] = await getCounted(`/tunnels?${text(limited)}`, "adit-tunnels-total");
    // Another question was asked since.
    if (mine !== asked) return;
    shown.update(tunnels);
    const said = `${plural(open, "open tunnel")}${open > tunnels.length ? `, the ${count(tunnels.length)} oldest shown` : ""}.`;
    if (total.textContent !== said) total.textContent = said;
    all.disabled = filter.size === 0 || open === 0;
  };
  const shown = table(refresh);
  inputs.forEach(([, , input]) => input.addEventListener("input", () => refresh().catch(() => {})));
  add(section("Choose", element("search", {}, form(refresh, { class: "row" },
    ...inputs.map(([, label, input]) => field(label, input)))), total, element("div", { class: "buttons" }, all, why)),
  section("Open tunnels", shown.node));
  return refresh;
}
