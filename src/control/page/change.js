// Changes: who may make them, what they ask before, and what they tell afterwards.

import { Failure, change, get, hasToken, setToken } from "./api.js";
import { button, element, field } from "./dom.js";

/** How long a token is kept without a change, in milliseconds: who leaves the desk leaves no open door. */
const FORGET = 15 * 60 * 1000;

let needs = "never";
let forgetting;

const lock = document.getElementById("lock");
const notice = document.getElementById("notice");

/** Says something, to eyes and to screen readers. Tones: good, bad. */
export function tell(text, tone = "good") {
  const close = button("Dismiss", () => notice.replaceChildren(), { class: "quiet" });
  notice.replaceChildren(element("p", { class: `notice ${tone}` }, element("span", {}, text), close));
}

/** A dialog that is open until one of its buttons, or Escape; `read` makes the answer of a confirmed one. */
function ask(heading, content, confirm, read, dangerous = false) {
  return new Promise((resolve) => {
    const answer = (value) => () => {
      dialog.close();
      resolve(value());
    };
    const title = element("h2", { id: "dialog-title" }, heading);
    const confirming = element("button", { type: "submit", class: dangerous ? "danger" : "primary" }, confirm);
    const onsubmit = (event) => {
      event.preventDefault();
      answer(read)();
    };
    const dialog = element("dialog", { "aria-labelledby": title.id },
      element("form", { onsubmit, autocomplete: "off" }, title, ...content,
        element("div", { class: "buttons" }, button("Cancel", answer(() => null)), confirming)));
    dialog.addEventListener("cancel", () => resolve(null));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Whether the operator says yes. */
export async function confirmed(heading, text, verb) {
  return (await ask(heading, [element("p", {}, text)], verb, () => true, true)) === true;
}

function forget() {
  clearTimeout(forgetting);
  setToken(null);
  show();
}

function keep() {
  clearTimeout(forgetting);
  forgetting = setTimeout(forget, FORGET);
}

function show() {
  if (needs !== "token") {
    const why = "Read-only: the page changes nothing without admin.token_file in the config";
    lock.replaceChildren(element("span", { class: "hint", title: why }, "Read-only"));
  } else if (hasToken()) {
    lock.replaceChildren(button("Lock changes", () => {
      forget();
      tell("The token is forgotten.");
      lock.querySelector("button").focus();
    }));
  } else {
    lock.replaceChildren(button("Unlock changes", unlock));
  }
}

/** Asks what changes need here. */
export async function start() {
  needs = (await get("/permission")).changes;
  show();
}

/** Whether the page may make changes: the token is here, or is asked for now. */
export async function unlock() {
  if (needs !== "token") {
    tell("This node takes no change from a page: its config has no admin.token_file.", "bad");
    return false;
  }
  if (hasToken()) return true;
  const input = element("input", { type: "password", autocomplete: "off", required: true, spellcheck: "false" });
  const hint = "The content of admin.token_file. It is kept in this page's memory until you lock, leave, or change "
    + "nothing for 15 minutes.";
  const name = element("input", { autocomplete: "off", maxlength: 64, pattern: "[ -~]*", spellcheck: "false" });
  const fields = [field("Token", input, hint), field("Your name", name, "Stands beside your changes; may be empty")];
  const given = await ask("Unlock changes", fields, "Unlock", () => [input.value.trim(), name.value.trim()]);
  if (given === null) return false;
  setToken(...given);
  try {
    await change("POST", "/permission");
  } catch (failure) {
    forget();
    tell(failure.status === 401 ? "That is not the token." : failure.message, "bad");
    return false;
  }
  keep();
  show();
  tell("Changes are unlocked.");
  // The button that had the focus may be gone.
  if (document.activeElement === document.body) lock.querySelector("button").focus();
  return true;
}

/**
 * Makes a change: asks for the token where it is not here and for confirmation where `sure` is given, sends, and tells
 * `done(answer)`. The answer, or null; a failure is told, or given to `failed` to be shown where it belongs.
 */
export async function act({ method, path, body, type, sure, done, failed }) {
  notice.replaceChildren();
  if (!(await unlock())) return null;
  if (sure && !(await confirmed(...sure))) return null;
  keep();
  try {
    const answer = await change(method, path, body, type);
    if (done) tell(done(answer));
    return answer;
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 401) forget();
    if (failed) failed(failure);
    else tell(failure.message, "bad");
    return null;
  }
}
