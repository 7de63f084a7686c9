// Words in two languages; both catalogues have the same keys, which the compiler checks.
import { effect, signal } from "@preact/signals";
import { acceptLanguage, Failure, type Message, type Problem } from "./api";
import { en } from "./words-en";
import { zh } from "./words-zh";

export type Words = typeof en;
export type Key = keyof Words;
export type Language = "en" | "zh";

const catalogues: Record<Language, Record<Key, string>> = { en, zh };
const wanted = localStorage.getItem("language");
export const language = signal<Language>(
  wanted === "en" || wanted === "zh" ? wanted : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en",
);
export const theme = signal<string>(localStorage.getItem("theme") ?? "auto");
export const zone = signal<string>(localStorage.getItem("zone") ?? "local");

effect(() => {
  document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en";
  localStorage.setItem("language", language.value);
  acceptLanguage.value = language.value === "zh" ? "zh-CN" : "en";
});
const dark = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(dark.matches);
dark.addEventListener("change", () => { systemDark.value = dark.matches; });
effect(() => {
  localStorage.setItem("theme", theme.value);
  const chosen = theme.value === "auto" ? (systemDark.value ? "dark" : "light") : theme.value;
  document.documentElement.dataset["theme"] = chosen;
});
effect(() => { localStorage.setItem("zone", zone.value); });

/** The words of a key, with `{name}` replaced. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  const text: string = catalogues[language.value][key];
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));
}

const locale = () => (language.value === "zh" ? "zh-CN" : "en-GB");

/** A time of the server, milliseconds since 1970: its nanoseconds are more than `Date` reads. */
export function instant(text: string): number {
  return Date.parse(text.replace(/(\.\d{3})\d+/, "$1"));
}

export function time(text: string | null | undefined): string {
  if (!text) return "–";
  const at = new Date(instant(text));
  const options: Intl.DateTimeFormatOptions = { dateStyle: "medium", timeStyle: "medium" };
  if (zone.value === "utc") options.timeZone = "UTC";
  return new Intl.DateTimeFormat(locale(), options).format(at);
}

/** The time of an axis that goes over so many seconds. */
export function clock(seconds: number, over: number): string {
  const options: Intl.DateTimeFormatOptions = over > 86_400
    ? { month: "numeric", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false }
    : { hour: "2-digit", minute: "2-digit", hour12: false, ...(over < 600 ? { second: "2-digit" } : {}) };
  if (zone.value === "utc") options.timeZone = "UTC";
  return new Intl.DateTimeFormat(locale(), options).format(new Date(seconds * 1000));
}

export function ago(text: string | null | undefined): string {
  if (!text) return "–";
  const seconds = (instant(text) - Date.now()) / 1000;
  const format = new Intl.RelativeTimeFormat(locale(), { numeric: "auto" });
  const steps: [Intl.RelativeTimeFormatUnit, number][] = [["day", 86400], ["hour", 3600], ["minute", 60]];
  for (const [unit, size] of steps) if (Math.abs(seconds) >= size) return format.format(Math.trunc(seconds / size), unit);
  return format.format(Math.trunc(seconds), "second");
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = value;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) { size /= 1024; unit += 1; }
  return `${number(size, unit === 0 || size >= 100 ? 0 : 1)} ${units[unit]}`;
}

export function bits(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  const units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s"];
  let size = value;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) { size /= 1000; unit += 1; }
  return `${number(size, size >= 100 || unit === 0 ? 0 : 2)} ${units[unit]}`;
}

export function number(value: number, digits = 0): string {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits, minimumFractionDigits: 0 }).format(value);
}

/** The server's sentences in Chinese by their forms; they are read when somebody reads Chinese. */
const forms = signal<ReadonlyMap<string, string> | null>(null);
const readForms = () => {
  if (language.peek() !== "zh" || forms.peek()) return;
  import("./messages").then((read) => { forms.value = read.forms; }, () => { setTimeout(readForms, 5000); });
};
effect(() => { void language.value; readForms(); });

/** A sentence of the server in the reader's language; `otherwise` if it is not known in parts. */
export function sentence(message: Message | null | undefined, otherwise: string): string {
  if (!message) return otherwise;
  if (language.value === "en") return message.text;
  const form = message.form ? forms.value?.get(message.form) : undefined;
  if (!form) return message.form ? otherwise : message.text;
  let place = 0;
  return form.replace(/\{(\d*)\*?\}/g, (_, number: string) => {
    const parameter = message.parameters?.[number ? Number(number) : place];
    place += 1;
    return parameter ? sentence(parameter, parameter.text) : "";
  });
}

const codes = new Set<string>(Object.keys(en).filter((key) => key.startsWith("error.")));

/** What went wrong, in the reader's language, with the server's own words for the details. */
export function said(error: unknown): string {
  const problem = error instanceof Failure
    ? { code: error.code, detail: sentence(error.parts, error.message), requestId: error.requestId }
    : error && typeof error === "object" && "detail" in error
      ? { code: (error as Problem).code, detail: sentence((error as Problem).detail_parts, (error as Problem).detail), requestId: "" }
      : { code: "", detail: error instanceof Error ? error.message : String(error), requestId: "" };
  const key = `error.${problem.code}`;
  const title = codes.has(key) ? t(key as Key) : "";
  const id = problem.requestId ? ` (Request-Id ${problem.requestId})` : "";
  return title && title !== problem.detail ? `${title}${language.value === "zh" ? "：" : ": "}${problem.detail}${id}` : `${problem.detail}${id}`;
}
