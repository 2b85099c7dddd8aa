// Profiles: their text with what is wrong with it, their versions, and which one counts.

import { Failure, get, part } from "./api.js";
import { act, tell } from "./change.js";
import { button, element, field, form, pill, section } from "./dom.js";
import { count, time } from "./format.js";
import { Editor } from "./editor.js";
import { problems, remarks } from "./problems.js";
import { Table } from "./table.js";

export const title = "Profiles";
export const interval = 5000;

const at = (name) => `/profiles/${part(name)}`;

export function build(frame) {
  return frame.parts.length >= 1 ? one(frame) : all(frame);
}

const assign = (name) => act({
  method: "POST",
  path: `${at(name)}/assign`,
  sure: ["Activate this profile?", `The node goes on with ${name} at once. Tunnels that it does not allow are closed.`, "Assign"],
  done: ({ in_force: inForce }) => (inForce ? `${name} is active.` : `${name} is assigned.`),
});

const unassign = (name) => act({
  method: "POST",
  path: `${at(name)}/unassign`,
  sure: ["Take this profile out of force?", "The node is unconfigured then: it listens nowhere, and its open tunnels are closed.", "Unassign"],
  done: () => `${name} is assigned no more.`,
});

function all({ add }) {
  const table = new Table("Profiles", ({ name }) => name, [
    { head: "Name", value: ({ name }) => ({ text: name, href: `#/profiles/${part(name)}` }) },
    { head: "Assigned", value: ({ isAssigned }) => (isAssigned ? { text: "assigned", tone: "good" } : "") },
    { head: "Version", number: true, value: ({ version }) => version },
    { head: "Versions", number: true, value: ({ versions }) => count(versions) },
    { head: "By", value: ({ who }) => who },
    { head: "When", value: ({ when }) => time(when) },
  ], [
    {
      text: ({ isAssigned }) => (isAssigned ? "Unassign" : "Assign"),
      name: ({ name }) => name,
      run: async ({ name, isAssigned }) => {
        await (isAssigned ? unassign(name) : assign(name));
        await refresh();
      },
    },
    {
      text: ({ isAssigned }) => (isAssigned ? "" : "Delete"),
      danger: true,
      name: ({ name }) => name,
      run: async ({ name }) => {
        await act({
          method: "DELETE",
          path: at(name),
          sure: ["Delete this profile?", `${name} and all of its versions go for good.`, "Delete"],
          done: () => `${name} is deleted.`,
        });
        await refresh();
      },
    },
  ], "The store holds no profile.");
  const refresh = async () => {
    const { assigned, profiles } = await get("/profiles");
    table.update(profiles.map((profile) => ({ ...profile, isAssigned: profile.name === assigned })));
  };
  const name = element("input", { required: true, maxlength: 64, spellcheck: "false" });
  const begin = () => {
    location.hash = `#/profiles/${part(name.value)}`;
  };
  add(section("Store", table.node), section("New profile", form(begin, { class: "row" }, field("Name", name),
    element("button", { type: "submit" }, "Write it"))));
  return refresh;
}

/** What the store has of a profile; nothing of one that is new. */
async function stored(name, version) {
  try {
    return await get(`${at(name)}${version ? `?version=${version}` : ""}`);
  } catch (failure) {
    if (failure instanceof Failure && failure.status === 404 && !version) return null;
    throw failure;
  }
}

function one({ add, parts: [name], isOpen }) {
  const editor = new Editor("Text of the profile");
  const state = element("p", { role: "status" });
  const found = element("div", { role: "status" });
  const note = element("input", { maxlength: 200 });
  let current = null;
  let isLoaded = false;

  const send = (dry, done) => act({
    method: "PUT",
    // What somebody else has stored in the meantime is not written over.
    path: `${at(name)}?${dry ? "dry_run=true" : `expect=${current?.version ?? 0}&note=${part(note.value)}`}`,
    body: editor.text,
    type: "application/toml",
    done,
    failed: ({ body, message }) => {
      const list = body.problems ?? [];
      editor.mark(list.map(({ line }) => line).filter((line) => line != null));
      found.replaceChildren(element("h3", {}, message), problems(list, (line) => editor.go(line)));
    },
  });
  const clear = () => {
    editor.mark([]);
    found.replaceChildren();
  };
  const validate = async () => {
    clear();
    const checked = await send(true, () => "The text is right; nothing is stored yet.");
    if (checked) found.replaceChildren(element("p", {}, pill("no problems", "good")), remarks(checked.findings ?? []));
  };
  const apply = async () => {
    clear();
    const done = ({ version, in_force: inForce }) =>
      `${name} is stored as version ${version}${inForce ? ", and active" : ""}.`;
    if (!(await send(false, done))) return;
    note.value = "";
    await load();
  };
  const history = versions(name, async ({ version }) => {
    const old = await stored(name, version);
    clear();
    editor.text = old.text;
    tell(`The text of version ${version} is in the editor.`);
    editor.input.focus();
  }, () => load(), () => current?.version ?? 0);

  const load = async () => {
    current = await stored(name);
    if (!isOpen()) return;
    isLoaded = true;
    editor.text = current?.text ?? "";
    show();
  };
  const show = () => {
    state.textContent = current ? `Version ${current.version}, by ${current.who}, ${time(current.when)}.` : "A new profile.";
    history.update((current?.history ?? []).map((version) => ({ ...version, isLast: version.version === current.version })));
  };
  add(element("p", {}, element("a", { href: "#/profiles" }, "All profiles")), section(name, state, editor.node,
    field("Note", note, "What is new and why, for the list of versions"), element("div", { class: "buttons" }, button("Validate", validate), button("Apply", apply, { class: "primary" }),
      button("Assign", () => current && assign(name))), found), section("Versions", history.node));

  // The text of one who writes is left alone.
  return async () => {
    if (!isLoaded) return load();
    const now = await stored(name);
    if (now?.version === current?.version) return;
    const isUntouched = editor.text === (current?.text ?? "");
    current = now;
    if (isUntouched) editor.text = now?.text ?? "";
    else tell(`${name} was changed elsewhere; the editor still has your text.`, "bad");
    show();
  };
}

function versions(name, look, then, newest) {
  const of = ({ version }) => `version ${version} of ${name}`;
  return new Table("Versions", ({ version }) => version, [
    { head: "Version", value: ({ version }) => version },
    { head: "By", value: ({ who }) => who },
    { head: "When", value: ({ when }) => time(when) },
    { head: "Note", value: ({ note }) => note },
  ], [
    { text: () => "Show", name: of, run: look },
    {
      text: ({ isLast }) => (isLast ? "" : "Roll back"),
      name: of,
      run: async ({ version }) => {
        const done = await act({
          method: "POST",
          path: `${at(name)}/rollback?expect=${newest()}`,
          body: { version },
          sure: ["Roll back?", `The text of version ${version} becomes the newest version of ${name}.`, "Roll back"],
          done: () => `${name} is back at the text of version ${version}.`,
        });
        if (done) await then();
      },
    },
  ], "Nothing is stored yet.");
}
