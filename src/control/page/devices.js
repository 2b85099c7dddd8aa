// The device registry: look a device up by how its name begins, set it, take it out.

import { getCounted, part } from "./api.js";
import { act } from "./change.js";
import { button, element, field, form, section, select } from "./dom.js";
import { plural } from "./format.js";
import { Table } from "./table.js";

export const title = "Devices";
export const interval = 5000;

/** Devices on a page of the list. */
const LISTED = 25;

export function build({ add, query }) {
  const prefix = element("input", { type: "search", value: query.get("prefix") ?? "", spellcheck: "false" });
  const total = element("p", { class: "hint", role: "status" });
  // The last name of each page before this one.
  let before = [];
  let last = "";
  let asked = 0;

  const set = (device, state, user) => act({
    method: "PUT",
    path: `/devices/${part(device)}`,
    body: user ? { state, user } : { state },
    done: () => `${device} is ${state}. Its open tunnels that this concerns are closed.`,
  });
  const action = (run) => async (device) => {
    await run(device);
    await refresh();
  };
  const name = ({ device }) => device;
  const table = new Table("Devices", name, [
    { head: "Device", value: name },
    { head: "State", value: ({ state }) => ({ text: state, tone: state === "managed" ? "good" : "bad" }) },
    { head: "User", value: ({ user }) => user },
    { head: "Tunnels", value: ({ device }) => ({ text: "Tunnels", href: `#/tunnels?device=${part(device)}` }) },
  ], [
    {
      text: ({ state }) => (state === "blocked" ? "Unblock" : "Block"),
      name,
      run: action(({ device, state, user }) => set(device, state === "blocked" ? "managed" : "blocked", user)),
    },
    {
      text: () => "Remove",
      danger: true,
      name,
      run: action(({ device }) => act({
        method: "DELETE",
        path: `/devices/${part(device)}`,
        sure: ["Take this device out?", `${device} is unmanaged then. What that means is the profile's to say.`, "Remove"],
        done: () => `${device} is taken out.`,
      })),
    },
  ], "No device begins so.");

  const first = button("First page", () => {
    before = [];
    refresh();
  });
  const next = button("Next page", () => {
    before.push(last);
    refresh();
  });
  const refresh = async () => {
    asked += 1;
    const mine = asked;
    const after = before.at(-1) ?? "";
    const path = `/devices?prefix=${part(prefix.value)}&after=${part(after)}&limit=${LISTED}`;
    const [devices, all] = await getCounted(path, "adit-devices-total");
    // Another question was asked since.
    if (mine !== asked) return;
    table.update(devices);
    last = devices.at(-1)?.device ?? "";
    const said = `${plural(all, "device")} in the registry, ${devices.length} shown.`;
    if (total.textContent !== said) total.textContent = said;
    first.disabled = before.length === 0;
    next.disabled = devices.length < LISTED;
  };
  prefix.addEventListener("input", () => {
    before = [];
    refresh().catch(() => {});
  });

  const device = element("input", { required: true, maxlength: 255, spellcheck: "false" });
  const state = select(["managed", "blocked"]);
  const user = element("input", { maxlength: 255, spellcheck: "false" });
  const submit = async () => {
    if (await set(device.value, state.value, user.value)) device.value = user.value = "";
    await refresh();
  };
  add(section("Registry", element("search", {}, field("Name begins with", prefix)), total, table.node,
    element("div", { class: "buttons pages" }, first, next)),
    section("Set a device", form(submit, { class: "row" }, field("Device", device), field("State", state),
      field("User", user, "Who has it, or empty"), element("button", { type: "submit" }, "Set"))));
  return refresh;
}
