// Pages by the part of the address after `#`: it works below any path, without help of the server.
import { signal } from "@preact/signals";

function decoded(part: string): string {
  try { return decodeURIComponent(part); } catch { return part; }
}

export type Route = { path: string[]; query: URLSearchParams };

function read(): Route {
  const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

export const route = signal<Route>(read());
addEventListener("hashchange", () => { route.value = read(); });

export function link(...path: (string | number)[]): string {
  return `#/${path.map((part) => encodeURIComponent(String(part))).join("/")}`;
}

export function go(...path: (string | number)[]): void {
  location.hash = link(...path);
}
