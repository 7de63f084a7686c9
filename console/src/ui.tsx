// Small parts that all pages use.
import { signal, useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Failure, type Schema } from "./api";
import { onEvent, reconnects } from "./live";
import { said, t, type Key } from "./i18n";

export const toasts = signal<{ id: number; text: string; bad: boolean }[]>([]);
let nextToast = 1;

export function toast(text: string, bad = false): void {
  const id = nextToast++;
  toasts.value = [...toasts.value.slice(-4), { id, text, bad }];
  setTimeout(() => { toasts.value = toasts.value.filter((each) => each.id !== id); }, bad ? 12000 : 4000);
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map((each) => <div key={each.id} class={each.bad ? "toast bad" : "toast"}>{each.text}</div>)}
    </div>
  );
}

/** Does something once, however often it is clicked meanwhile, and tells what came of it. */
export async function act(name: string, work: () => Promise<unknown>): Promise<boolean> {
  const done = await once(name, async () => {
    await work();
    toast(t("result.done", { name }));
    return true;
  });
  return done ?? false;
}
const busy = new Set<string>();

/** Does something once, however often it is clicked meanwhile; a failure is told. Undefined if it failed, or is under way already. */
export async function once<T>(name: string, work: () => Promise<T>): Promise<T | undefined> {
  if (busy.has(name)) return undefined;
  busy.add(name);
  try {
    return await work();
  } catch (error) {
    toast(t("result.failed", { name, why: said(error) }), true);
    return undefined;
  } finally {
    busy.delete(name);
  }
}

export type Loaded<T> = { value: T | undefined; error: unknown; reload: () => void };

/** Reads something now, when `about` changes, after each interruption, and `pause` ms after events that `on` takes. */
export function useLoaded<T>(read: () => Promise<T>, about: unknown[], on?: (kind: string) => boolean, pause = 200): Loaded<T> {
  const value = useSignal<T | undefined>(undefined);
  const error = useSignal<unknown>(undefined);
  const latest = useRef(read);
  latest.current = read;
  const turn = useRef(0);
  const running = useRef(false);
  const again = useRef(false);
  const reload = () => {
    if (running.current) { again.current = true; return; }
    running.current = true;
    const mine = turn.current;
    latest.current().then(
      (found) => { if (mine === turn.current) { value.value = found; error.value = undefined; } },
      (failed: unknown) => { if (mine === turn.current) error.value = failed; },
    ).finally(() => {
      running.current = false;
      if (again.current) { again.current = false; reload(); }
    });
  };
  useEffect(() => {
    // What was read about something else is not about this.
    value.value = undefined;
    error.value = undefined;
    turn.current += 1;
    if (running.current) again.current = true;
    else reload();
  }, about);
  useEffect(() => { if (reconnects.value > 0) reload(); }, [reconnects.value]);
  useEffect(() => {
    if (!on) return undefined;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const stop = onEvent((event) => {
      if (!on(event.kind)) return;
      timer ??= setTimeout(() => { timer = undefined; reload(); }, pause);
    });
    return () => { clearTimeout(timer); stop(); };
  }, []);
  return { value: value.value, error: error.value, reload };
}

export function Problem({ error }: { error: unknown }) {
  return error === undefined ? null : <p class="error" role="alert">{said(error)}</p>;
}

const tones: Record<string, string> = {
  ok: "good", warning: "warn", missing: "bad", running: "good", healthy: "good", done: "good", success: "good", exited: "idle", stopped: "idle", created: "idle", paused: "warn", removed: "idle",
  unhealthy: "bad", failed: "bad", oom: "bad", cancelled: "warn", timed_out: "bad", not_found: "bad", overtaken: "warn", publish_failed: "bad", published: "warn", starting: "warn", restarting: "warn", pending: "warn", deleting: "warn",
};

export function State({ of }: { of: string }) {
  const key = `state.${of}`;
  const known = of in tones;
  return <span class={`state ${tones[of] ?? "idle"}`}>{known ? t(key as Key) : of}</span>;
}

export function Field({ label, children }: { label: string; children: ComponentChildren }) {
  return <label class="field"><span>{label}</span>{children}</label>;
}

export function Tabs({ names, chosen, choose }: { names: [string, string][]; chosen: string; choose: (name: string) => void }) {
  return (
    <div class="tabs" role="tablist">
      {names.map(([name, label]) => (
        <button key={name} role="tab" aria-selected={name === chosen} onClick={() => choose(name)}>{label}</button>
      ))}
    </div>
  );
}

type Question = { text: string; typed?: string; options: [string, string][]; answer: (chosen: Set<string> | null) => void; details?: string[] };
const question = signal<Question | null>(null);

/** Asks before something is done that can't be taken back: null if it is not to be. With `typed` the name has to be typed. */
export function ask(text: string, extra: { typed?: string; options?: [string, string][]; details?: string[] } = {}): Promise<Set<string> | null> {
  return new Promise((resolve) => {
    question.value = { text, options: extra.options ?? [], answer: resolve, ...(extra.typed ? { typed: extra.typed } : {}), ...(extra.details ? { details: extra.details } : {}) };
  });
}

export function Question() {
  const asked = question.value;
  const typed = useSignal("");
  const chosen = useRef(new Set<string>());
  useEffect(() => { typed.value = ""; chosen.current = new Set(); }, [asked]);
  if (!asked) return null;
  const end = (value: Set<string> | null) => { question.value = null; asked.answer(value); };
  const ready = !asked.typed || typed.value === asked.typed;
  return (
    <Dialog title={asked.text} close={() => end(null)}>
      {asked.details ? <pre>{asked.details.join("\n")}</pre> : null}
      {asked.options.map(([name, label]) => (
        <p key={name}><label><input type="checkbox" onChange={(e) => { if (e.currentTarget.checked) chosen.current.add(name); else chosen.current.delete(name); }} /> {label}</label></p>
      ))}
      {asked.typed ? <Field label={t("ask.type_name", { name: asked.typed })}><input value={typed.value} onInput={(e) => { typed.value = e.currentTarget.value; }} /></Field> : null}
      <div class="actions">
        <button onClick={() => end(null)}>{t("cancel")}</button>
        <button class="danger" disabled={!ready} onClick={() => end(chosen.current)}>{t("confirm")}</button>
      </div>
    </Dialog>
  );
}

export function Dialog({ title, close, children }: { title: string; close: () => void; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  const typed = useRef(false);
  useEffect(() => {
    const before = document.activeElement;
    element.current?.showModal();
    return () => { if (before instanceof HTMLElement) before.focus(); };
  }, []);
  const leave = () => { if (!typed.current || confirm(t("discard"))) close(); };
  return (
    <dialog ref={element} aria-label={title} onInput={() => { typed.current = true; }} onCancel={(e) => { e.preventDefault(); leave(); }}>
      <h2>{title}</h2>
      {children}
    </dialog>
  );
}

export async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Only pages over TLS or on localhost have the clipboard.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(t("copied"));
}

export function Secret({ label, text }: { label: string; text: string }) {
  return (
    <div class="card">
      <p><strong>{label}</strong> <span class="dim">{t("acc.secret_once")}</span></p>
      <pre>{text}</pre>
      <p><button onClick={() => void copy(text)}>{t("copy")}</button></p>
    </div>
  );
}

export function Bar({ used, of }: { used: number; of: number }) {
  const share = of > 0 ? Math.min(100, (used / of) * 100) : 0;
  return <div class={share > 95 ? "bar bad" : share > 85 ? "bar warn" : "bar"} role="img" aria-label={`${Math.round(share)} %`}><i style={{ width: `${share}%` }} /></div>;
}

/** The number of a field; an error that names the field and what is in it otherwise. */
export function numeric(label: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!text.trim() || !Number.isFinite(value) || value < min || value > max) throw new Error(t("wrong_number", { label, min, max, text: text.slice(0, 40) }));
  return value;
}

/** Tells once what came of something done with several things; those that failed are the answer. */
export function reportMany(name: string, results: Schema["BulkResult"][]): string[] {
  const failed = results.filter((each) => each.error);
  const done = results.length - failed.length;
  const first = failed[0]?.error;
  const why = first ? said(new Failure(first.status, first.code, first.detail, "", first.detail_parts)) : "";
  toast(`${name}: ${first ? t("many.failed", { done, failed: failed.length, why }) : t("many.done", { done })}`, failed.length > 0);
  return failed.map((each) => each.container);
}

/** Saves something that the server sends under a name. */
export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
