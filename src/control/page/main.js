// The frame: which view is open, and when it looks at the node again.

import { get } from "./api.js";
import { start } from "./change.js";
import { button, element } from "./dom.js";
import * as certificates from "./certificates.js";
import * as devices from "./devices.js";
import * as latency from "./latency.js";
import * as overview from "./overview.js";
import * as profiles from "./profiles.js";
import * as services from "./services.js";
import * as tunnels from "./tunnels.js";

const VIEWS = { overview, profiles, certificates, services, devices, tunnels, latency };

/** How often the state in the header is asked for, in milliseconds. */
const STATE = 5000;

const main = document.getElementById("main");
const nav = document.getElementById("views");
const trouble = element("p", { class: "notice bad", role: "alert", hidden: true });
let open = 0;

for (const [name, view] of Object.entries(VIEWS)) nav.append(element("a", { href: `#/${name}` }, view.title));

/** `#/devices/a%2Fb?state=x` as its view, the parts of its path behind it, and its parameters. */
function place() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const parts = rest.filter(Boolean).map((part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  });
  return { name: Object.hasOwn(VIEWS, name) ? name : "overview", parts, query: new URLSearchParams(query ?? "") };
}

async function show(focus) {
  open += 1;
  const mine = open;
  const { name, parts, query } = place();
  const view = VIEWS[name];
  document.title = `${view.title} · adit`;
  for (const link of nav.children) {
    if (link.hash === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = element("h1", { tabindex: "-1" }, view.title);
  main.replaceChildren(heading, trouble);
  if (focus) heading.focus();
  const isOpen = () => mine === open;
  const refresh = view.build({ add: (...nodes) => main.append(...nodes), parts, query, isOpen });
  while (isOpen()) {
    if (!document.hidden) await attempt(refresh, isOpen);
    await new Promise((done) => setTimeout(done, view.interval));
  }
}

async function attempt(refresh, isOpen) {
  let why = "";
  try {
    await refresh();
  } catch (failure) {
    why = `${failure.message}; what is shown may be old.`;
  }
  if (!isOpen()) return;
  trouble.hidden = why === "";
  if (trouble.textContent !== why) trouble.textContent = why;
}

async function state() {
  const shown = document.getElementById("node");
  const say = (text, tone) => {
    if (shown.textContent !== text) shown.textContent = text;
    shown.className = `pill ${tone}`;
  };
  try {
    const ready = await get("/readyz", [503]);
    if (ready.ready) say(ready.reasons.length > 0 ? "ready, with remarks" : "ready", ready.reasons.length > 0 ? "warn" : "good");
    else say("not ready", "bad");
  } catch {
    say("not reached", "bad");
  }
}

document.getElementById("skip").addEventListener("click", () => main.querySelector("h1").focus());
addEventListener("hashchange", () => show(true));
setInterval(() => document.hidden || state(), STATE);
state();
latency.watch();
start().catch(() => {});
show(false);
