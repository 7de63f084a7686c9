// Requests to the native API by the session's cookie.
import { batch, signal } from "@preact/signals";
import type { components } from "./schema";

export type Schema = components["schemas"];
export type Session = Schema["Session"];
export type Problem = Schema["Problem"];
export type Message = Schema["Message"];

/** Who is logged in; undefined before that is known, null when nobody is. */
export const session = signal<Session | null | undefined>(undefined);
/** Whose session ended while a page was open: the page stays, below the login, for whoever comes back. */
export const interrupted = signal<Session | null>(null);
/** What each request shows beside the cookie. It is kept by origin, port included: the cookie alone goes to other ports of the host, too. */
const CSRF = "berth-csrf";
const csrf = () => localStorage.getItem(CSRF) ?? "";
/** Grows when accounts were made or removed here. */
export const accountsChanged = signal(0);
/** The account that an administrator acts for; empty for its own. */
export const account = signal<string>(sessionStorage.getItem("account") ?? "");

/** What the server refused, or that it could not be reached (status 0). */
export class Failure extends Error {
  constructor(readonly status: number, readonly code: string, detail: string, readonly requestId = "", readonly parts?: Message | null) {
    super(detail);
  }
}

/** An address of the API, wherever the console is mounted. */
export function url(path: string): string {
  return new URL(path, document.baseURI).toString();
}

/** A WebSocket of the API, for the account that is acted for. Its request can have no headers: the session is shown as a protocol. */
export function socket(path: string): WebSocket {
  const made = new URL(path, document.baseURI);
  made.protocol = made.protocol === "https:" ? "wss:" : "ws:";
  made.hash = "";
  if (account.value) made.searchParams.set("account", account.value);
  made.searchParams.set("language", acceptLanguage.value);
  return new WebSocket(made, ["berth", `berth-csrf.${csrf()}`]);
}

/** The language of the server's messages; set by whoever knows the reader's. */
export const acceptLanguage = signal("en");
const SESSION = "v1/session";

async function failure(answer: Response): Promise<Failure> {
  let problem: Partial<Problem> = {};
  try { problem = await answer.json() as Problem; } catch { /* not the server's own answer */ }
  const id = answer.headers.get("request-id") ?? "";
  return new Failure(answer.status, problem.code ?? "", problem.detail ?? answer.statusText, answer.status >= 500 ? id : "", problem.detail_parts);
}

export async function send(method: string, path: string, body?: BodyInit, type?: string, key?: string): Promise<Response> {
  const extra: Record<string, string> = { "berth-csrf": csrf(), "accept-language": acceptLanguage.value };
  // Who is logged in, and which accounts there are, is asked for oneself, not for the account that is acted for.
  if (account.value && path !== SESSION && !new URL(url(path)).pathname.endsWith("/v1/accounts")) extra["berth-account"] = account.value;
  if (type) extra["content-type"] = type;
  if (key) extra["idempotency-key"] = key;
  let answer: Response;
  try {
    answer = await fetch(url(path), { method, headers: extra, body: body ?? null, credentials: "same-origin" });
  } catch (error) {
    throw new Failure(0, "unreachable", String(error));
  }
  if (answer.ok) return answer;
  const refused = await failure(answer);
  if (answer.status === 401 && path !== SESSION) interrupt();
  throw refused;
}

export async function get<T>(path: string): Promise<T> {
  return await (await send("GET", path)).json() as T;
}

export async function change<T = unknown>(method: string, path: string, body?: unknown, key?: string): Promise<T> {
  const answer = await send(method, path, body === undefined ? undefined : JSON.stringify(body), "application/json", key);
  const text = await answer.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

/** All pages of a list, at most so many items. */
export async function all<T>(path: string, most = 5000): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | undefined;
  do {
    const made = new URL(url(path));
    made.searchParams.set("limit", "1000");
    if (cursor) made.searchParams.set("cursor", cursor);
    const page = await get<{ items: T[]; next_cursor?: string }>(made.toString());
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}

function forget(): void {
  batch(() => {
    actFor("");
    localStorage.removeItem(CSRF);
    interrupted.value = null;
    session.value = null;
  });
}

/** The session is over and nobody has logged out. */
function interrupt(): void {
  const lost = session.value ?? interrupted.value;
  if (!lost) { forget(); return; }
  batch(() => {
    localStorage.removeItem(CSRF);
    interrupted.value = lost;
    session.value = null;
  });
}

export async function readSession(): Promise<void> {
  try {
    session.value = await get<Session>(SESSION);
  } catch (error) {
    if (error instanceof Failure && (error.status === 401 || error.status === 403)) interrupt();
    else throw error;
  }
}

export async function logIn(credentials: Partial<Schema["SessionCreate"]>): Promise<void> {
  const made = await change<Session>("POST", SESSION, credentials);
  localStorage.setItem(CSRF, made.csrf ?? "");
  const lost = interrupted.value;
  batch(() => {
    if (lost?.account !== made.account || lost.role !== made.role) actFor("");
    interrupted.value = null;
    session.value = made;
  });
}

export async function logOut(): Promise<void> {
  await change("DELETE", SESSION);
  forget();
}

export function actFor(name: string): void {
  account.value = name;
  sessionStorage.setItem("account", name);
}
