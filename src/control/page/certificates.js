// The certificate store: what is in it and what is amiss with it, import after a look, deletion.

import { base64, get, part } from "./api.js";
import { act, confirmed, tell } from "./change.js";
import { button, element, facts, field, form, pill, section, select } from "./dom.js";
import { count, plural, time } from "./format.js";
import { findings, problems } from "./problems.js";
import { Table } from "./table.js";

export const title = "Certificates";
export const interval = 10000;

const KINDS = [["server", "Server certificate"], ["group", "Group certificate"], ["client", "Client certificate, for servers"]];

const at = ({ kind, name }) => `/certificates/${part(kind)}/${part(name)}`;

function daysLeft({ days_left: days }) {
  const tone = days < 0 ? "bad" : days < 30 ? "bad" : days < 60 ? "warn" : "good";
  return { text: days < 0 ? `expired ${plural(-days, "day")} ago` : plural(days, "day"), tone };
}

function worst({ findings: list }) {
  if (list.length === 0) return { text: "none", tone: "good" };
  const errors = list.filter(({ severity }) => severity === "error").length;
  return errors > 0 ? { text: plural(errors, "error"), tone: "bad" } : { text: plural(list.length, "warning"), tone: "warn" };
}

/** Everything that is known of one certificate. */
function details(certificate) {
  const days = daysLeft(certificate);
  const links = ["pem", "der", "mobileconfig"].map((format) =>
    element("a", { href: `${at(certificate)}/export?format=${format}`, download: `${certificate.name}.${format}` }, format));
  return [
    facts([
      ["Subject", certificate.subject],
      ["Issuer", certificate.issuer],
      ["Names", (certificate.names ?? []).join(", ")],
      ["Key", certificate.key_type],
      ["Valid from", time(certificate.not_before)],
      ["Valid until", time(certificate.not_after)],
      ["Days left", pill(days.text, days.tone)],
      ["SHA-256", element("code", {}, certificate.sha256), "wide"],
      ["Used by", (certificate.used_by ?? []).join(", ") || "no profile"],
    ]),
    findings(certificate.findings),
    links,
  ];
}

/** A form that looks at a file first, and imports it only as it was looked at. */
function importing(imported) {
  const kind = select(KINDS);
  const name = element("input", { required: true, maxlength: 64, pattern: "[A-Za-z0-9_\\-][A-Za-z0-9._\\-]*", spellcheck: "false" });
  const file = element("input", { type: "file", required: true });
  const key = element("input", { type: "file" });
  const password = element("input", { type: "password", autocomplete: "off" });
  const result = element("div", { class: "result", role: "status" });
  const take = element("button", { type: "button", class: "primary", disabled: true }, "Import");
  const stale = () => {
    take.disabled = true;
    result.replaceChildren();
  };
  // A name that nobody has written follows the file.
  let proposed = "";
  file.addEventListener("change", () => {
    const stem = file.files[0]?.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]/g, "-").replace(/^\.+/, "");
    if (stem && (name.value === "" || name.value === proposed)) name.value = proposed = stem.slice(0, 64);
  });
  for (const input of [kind, name, file, key, password]) input.addEventListener("input", stale);

  const send = async (query, done) => {
    const body = { file: await base64(file.files[0]) };
    if (key.files[0]) body.key = await base64(key.files[0]);
    if (password.value !== "") body.password = password.value;
    return act({
      method: "PUT",
      path: `${at({ kind: kind.value, name: name.value })}${query}`,
      body,
      done,
      failed: async (failure) => {
        if (query === "" && failure.status === 409) return instead(failure);
        result.replaceChildren(element("h3", {}, "It cannot be imported"),
          element("p", {}, failure.message));
        if (failure.body.findings?.length > 0) result.append(findings(failure.body.findings));
        if (failure.body.problems) result.append(problems(failure.body.problems));
      },
    });
  };
  const instead = async (failure) => {
    tell(failure.message, "bad");
    const sure = await confirmed("Replace the certificate?", `${name.value} is in the store already. What uses it goes on `
      + "with the new one at once.", "Replace");
    if (sure) await put("?replace=true");
  };
  const look = async () => {
    stale();
    const certificate = await send("?dry_run=true", ({ findings: list }) =>
      (list.length === 0 ? "The file is good; nothing is imported yet." : `${plural(list.length, "warning")}; nothing is imported yet.`));
    if (!certificate) return;
    const [known, found] = details(certificate);
    result.replaceChildren(element("h3", {}, "It can be imported"), known, found);
    take.disabled = false;
  };
  const put = async (query) => {
    const certificate = await send(query, () => `${name.value} is imported.`);
    if (!certificate) return;
    made.reset();
    stale();
    kind.focus();
    await imported();
  };
  take.addEventListener("click", () => put(""));
  const made = form(look, {},
    element("div", { class: "row" }, field("Kind", kind),
      field("File", file, "PEM, DER, PKCS#7 or PKCS#12, whatever its name ends in"),
      field("Key file", key, "Only where the key is not in the file"), field("Password", password, "If the file or the key has one"),
      field("Name in the store", name, "Letters, digits and . _ -")),
    element("div", { class: "buttons" }, element("button", { type: "submit" }, "Look at the file"), take));
  return [made, result];
}

export function build(frame) {
  return frame.parts.length >= 2 ? one(frame) : all(frame);
}

function all({ add }) {
  const table = new Table("Certificates", ({ kind, name }) => `${kind}/${name}`, [
    { head: "Name", value: ({ kind, name }) => ({ text: name, href: `#/certificates/${part(kind)}/${part(name)}` }) },
    { head: "Kind", value: ({ kind }) => kind },
    { head: "Subject", value: ({ subject }) => subject },
    { head: "Days left", value: daysLeft },
    { head: "Findings", value: worst },
    { head: "Used by", value: ({ used_by: by }) => (by ?? []).join(", ") },
  ], [
    { text: () => "Delete", danger: true, name: ({ name }) => name, run: (certificate) => remove(certificate, refresh) },
  ], "The store is empty.");
  const total = element("p", { class: "hint" });
  const refresh = async () => {
    const { certificates } = await get("/certificates");
    total.textContent = `${count(certificates.length)} in the store. A profile names one as store:NAME.`;
    table.update(certificates);
  };
  add(section("Store", total, table.node), section("Import", ...importing(refresh)));
  return refresh;
}

async function remove(certificate, then) {
  const gone = await act({
    method: "DELETE",
    path: at(certificate),
    sure: ["Delete this certificate?", `${certificate.name} is taken out of the store for good.`, "Delete"],
    done: () => `${certificate.name} is deleted.`,
  });
  if (gone) await then();
}

function one({ add, parts: [kind, name] }) {
  const shown = element("div", { class: "card" });
  const back = () => {
    location.hash = "#/certificates";
  };
  add(element("p", {}, element("a", { href: "#/certificates" }, "All certificates")), section(name, shown,
    element("div", { class: "buttons" }, button("Delete", () => remove({ kind, name }, back), { class: "danger" }))));
  let seen = "";
  return async () => {
    const certificate = await get(at({ kind, name }));
    if (seen === JSON.stringify(certificate)) return;
    seen = JSON.stringify(certificate);
    const [known, found, links] = details(certificate);
    shown.replaceChildren(known, found, element("p", {}, "Its public part: ", ...links.flatMap((link) => [link, " "])));
  };
}
