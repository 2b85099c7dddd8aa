// What the node is asked, and what it is told. The token is in this module's memory and nowhere else.

let token = null;
let user = "";

/** An answer that is no success; `body` is its JSON where it has some. */
export class Failure extends Error {
  constructor(status, body) {
    super(body?.error ?? `the node answers with ${status}`);
    this.status = status;
    this.body = body ?? {};
  }
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", cache: "no-store", redirect: "error", ...options });
  } catch {
    throw new Failure(0, { error: "the node cannot be reached" });
  }
  const isJson = response.headers.get("content-type")?.startsWith("application/json");
  const body = isJson ? await response.json() : await response.text();
  return { response, body };
}

/** The JSON (or text) at a path. `also` names statuses that are answers too. */
export async function get(path, also = []) {
  const { response, body } = await send(path, {});
  if (!response.ok && !also.includes(response.status)) throw new Failure(response.status, body);
  return body;
}

/** The same with one of its headers, as a number. */
export async function getCounted(path, header) {
  const { response, body } = await send(path, {});
  if (!response.ok) throw new Failure(response.status, body);
  return [body, Number(response.headers.get(header))];
}

/** Changes something, with the token. */
export async function change(method, path, body, type = "application/json") {
  const headers = { authorization: `Bearer ${token}` };
  if (user !== "") headers["adit-user"] = user;
  if (body !== undefined) headers["content-type"] = type;
  const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
  const { response, body: answer } = await send(path, { method, headers, body: text });
  if (!response.ok) throw new Failure(response.status, answer);
  return answer;
}

export const part = encodeURIComponent;

export const hasToken = () => token !== null;

/** The token, and whose changes those with it are. */
export function setToken(text, name = "") {
  token = text;
  user = name;
}

/** A file's bytes in base64. */
export function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}
