// The log of a container: as text only, followed live, searched by the server, read backwards.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { send, type Schema } from "./api";
import { bytes, said, t, time } from "./i18n";
import { online, watch } from "./live";
import { save } from "./ui";

type Entry = Schema["LogEntry"];
type Line = { text: string; stream: string; time: string; number: number; partial: boolean };

/** Lines that the page holds; others are read again when they are scrolled to. More of them make each frame longer. */
const MOST = 2_500;
/** Characters of a line that are shown at first. */
const LONG = 4_000;
const PAGE = 1000;

const COLOURS = ["#56616e", "#c0392b", "#1e8449", "#9a6b00", "#2471a3", "#8e44ad", "#117a8b", "#7b8794"];

/** A line's text in parts with the colours of its ANSI sequences. All other escape sequences are left out, links and clipboard too. */
export function parts(text: string): { text: string; colour?: string; bold?: boolean }[] {
  const found: { text: string; colour?: string; bold?: boolean }[] = [];
  let colour: string | undefined;
  let bold = false;
  let at = 0;
  // What a carriage return overwrites is not seen in a terminal, nor here.
  text = text.replace(/\r+$/, "").replace(/^.*\r/s, "");
  // CSI … final byte; OSC … BEL or ST; any other escape with one character; other control characters, those that turn the direction of text as well.
  const escapes = /\x1b\[([0-9;:?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]/g;
  const add = (end: number) => {
    if (end > at) found.push({ text: text.slice(at, end), ...(colour ? { colour } : {}), ...(bold ? { bold } : {}) });
  };
  for (const match of text.matchAll(escapes)) {
    add(match.index);
    at = match.index + match[0].length;
    if (match[2] !== "m") continue;
    const codes = (match[1] || "0").split(/[;:]/).map(Number);
    for (let index = 0; index < codes.length; index += 1) {
      const code = codes[index] ?? 0;
      if (code === 38 || code === 48) {
        // Of 256 colours, or of all: 38;5;N and 38;2;R;G;B.
        const [kind, first = 0, second = 0, third = 0] = codes.slice(index + 1);
        if (code === 38 && kind === 5) colour = first < 16 ? COLOURS[first % 8] : undefined;
        if (code === 38 && kind === 2) colour = `rgb(${first} ${second} ${third})`;
        index += kind === 5 ? 2 : kind === 2 ? 4 : 0;
      } else if (code === 0) { colour = undefined; bold = false; }
      else if (code === 1) bold = true;
      else if (code >= 30 && code <= 37) colour = COLOURS[code - 30];
      else if (code >= 90 && code <= 97) colour = COLOURS[code - 90];
      else if (code === 39) colour = undefined;
    }
  }
  add(text.length);
  return found;
}

const line = (entry: Entry): Line => ({ text: entry.text, stream: entry.stream, time: entry.time, number: entry.number ?? 0, partial: entry.partial ?? false });

/** Lines of pieces. */
function whole(pieces: Line[]): Line[] {
  const found: Line[] = [];
  const open = new Map<string, Line>();
  for (const piece of pieces) {
    const before = open.get(piece.stream);
    if (before) { before.text += piece.text; before.partial = piece.partial; } else found.push(piece);
    if (piece.partial) open.set(piece.stream, before ?? piece);
    else open.delete(piece.stream);
  }
  return found;
}

/** Lines of a container's log. */
async function page(id: string, query: URLSearchParams): Promise<Line[]> {
  const answer = await send("GET", `v1/containers/${encodeURIComponent(id)}/logs?${query.toString()}`);
  const text = await answer.text();
  return whole(text.split("\n").filter(Boolean).map((each) => line(JSON.parse(each) as Entry)));
}

/** The rows are made by hand: they are many, only ever added at the ends, and a selection in them must live on. */
class View {
  lines: Line[] = [];
  elements: HTMLElement[] = [];
  /** Lines that have not ended, by stream. */
  open = new Map<string, Line>();
  constructor(readonly box: HTMLElement, readonly numbers: () => boolean, readonly times: () => boolean, readonly found: () => RegExp | null) {}

  private element(of: Line): HTMLElement {
    const row = document.createElement("div");
    if (of.stream === "stderr") row.className = "err";
    if (this.numbers()) {
      // Drawn by the style sheet: neither a selection nor a search of the page takes it.
      const number = document.createElement("span");
      number.className = "number";
      number.dataset.number = String(of.number);
      row.append(number);
    }
    if (this.times()) {
      const at = document.createElement("time");
      at.textContent = time(of.time);
      row.append(at);
    }
    const shown = of.text.length > LONG ? of.text.slice(0, LONG) : of.text;
    const sought = this.found();
    for (const part of parts(shown)) this.span(row, part.text, part.colour, part.bold, sought);
    if (of.text.length > LONG) {
      const more = document.createElement("button");
      more.textContent = t("log.long", { size: bytes(of.text.length - LONG) });
      more.onclick = () => {
        const next = document.createElement("span");
        for (const part of parts(of.text.slice(LONG, LONG + 500_000))) this.span(next, part.text, part.colour, part.bold, null);
        more.replaceWith(next);
      };
      row.append(more);
    }
    return row;
  }

  private span(row: HTMLElement, text: string, colour: string | undefined, bold: boolean | undefined, sought: RegExp | null): void {
    const span = document.createElement("span");
    if (colour) span.style.color = colour;
    if (bold) span.style.fontWeight = "bold";
    let at = 0;
    if (sought) {
      for (const match of text.matchAll(sought)) {
        if (!match[0]) break;
        span.append(text.slice(at, match.index));
        const mark = document.createElement("mark");
        mark.textContent = match[0];
        span.append(mark);
        at = match.index + match[0].length;
      }
    }
    span.append(text.slice(at));
    row.append(span);
  }

  append(all: Line[]): void {
    const fragment = document.createDocumentFragment();
    for (const each of all) {
      const begun = this.open.get(each.stream);
      const at = begun ? this.lines.lastIndexOf(begun) : -1;
      if (begun && at >= 0) {
        begun.text += each.text;
        begun.partial = each.partial;
        const made = this.element(begun);
        this.elements[at]?.replaceWith(made);
        this.elements[at] = made;
      } else {
        const kept = { ...each };
        const made = this.element(kept);
        this.lines.push(kept);
        this.elements.push(made);
        fragment.append(made);
        if (each.partial) this.open.set(each.stream, kept);
      }
      if (!each.partial) this.open.delete(each.stream);
    }
    this.box.append(fragment);
  }

  prepend(all: Line[]): void {
    const fragment = document.createDocumentFragment();
    const made = all.map((each) => this.element(each));
    fragment.append(...made);
    const before = this.box.scrollHeight;
    this.box.prepend(fragment);
    this.box.scrollTop += this.box.scrollHeight - before;
    this.lines.unshift(...all);
    this.elements.unshift(...made);
  }

  /** Drops the lines after the one with this number. */
  dropAfter(number: number): void {
    const kept = this.lines.map((each) => each.number <= number);
    this.elements.filter((_, at) => !kept[at]).forEach((element) => element.remove());
    this.elements = this.elements.filter((_, at) => kept[at]);
    this.lines = this.lines.filter((_, at) => kept[at]);
    this.open.clear();
  }

  /** Drops the newest lines beyond what is held, below what is seen; whether there were any. */
  trimEnd(): boolean {
    if (this.lines.length <= MOST) return false;
    for (const element of this.elements.splice(MOST)) element.remove();
    this.lines.splice(MOST);
    this.open.clear();
    return true;
  }

  /** Drops the oldest lines beyond what is held; whether there were any. */
  trim(): boolean {
    const over = this.lines.length - MOST;
    if (over <= 0) return false;
    const before = this.box.scrollHeight;
    for (const element of this.elements.splice(0, over)) element.remove();
    this.lines.splice(0, over);
    this.box.scrollTop -= before - this.box.scrollHeight;
    return true;
  }

  clear(): void {
    this.lines = [];
    this.elements = [];
    this.open.clear();
    this.box.replaceChildren();
  }

  redraw(): void {
    for (const [at, of] of this.lines.entries()) {
      const made = this.element(of);
      this.elements[at]?.replaceWith(made);
      this.elements[at] = made;
    }
  }
}

function expression(text: string): RegExp | null {
  if (!text) return null;
  try { return new RegExp(text, "g"); } catch { return null; }
}

/** The log of a container; `run` changes when it is started again. */
export function Logs({ id, name, run }: { id: string; name: string; run: string }) {
  const box = useRef<HTMLDivElement>(null);
  const view = useRef<View | null>(null);
  const follow = useSignal(true);
  const wrap = useSignal(localStorage.getItem("log.wrap") !== "no");
  const numbers = useSignal(localStorage.getItem("log.numbers") === "yes");
  const times = useSignal(localStorage.getItem("log.times") === "yes");
  const grep = useSignal("");
  const asked = useSignal("");
  const fresh = useSignal(0);
  const count = useSignal<number | null>(null);
  const beginning = useSignal(false);
  const empty = useSignal(true);
  const error = useSignal<unknown>(undefined);
  const older = useRef(false);
  /** Grows when the end of the log is to be read anew. */
  const generation = useSignal(0);
  /** Whether lines at the end are not on the page. */
  const endIsGone = useRef(false);
  const toEnd = useRef<() => void>(() => undefined);
  const followAgain = useRef<() => void>(() => undefined);

  useEffect(() => {
    const element = box.current;
    if (!element) return undefined;
    const made = new View(element, () => numbers.peek(), () => times.peek(), () => expression(asked.peek()));
    view.current = made;
    made.clear();
    beginning.value = false;
    empty.value = true;
    fresh.value = 0;
    error.value = undefined;
    endIsGone.current = false;
    let newest: string | undefined;
    let seenAtNewest = 0;
    let waiting: Line[] = [];
    let frame = 0;
    const draw = () => {
      frame = 0;
      const all = waiting;
      waiting = [];
      // A page that is read elsewhere takes no more than it can hold: its end is read anew when somebody wants it.
      if (!endIsGone.current && (follow.peek() || made.lines.length < MOST)) made.append(all);
      else endIsGone.current = true;
      empty.value = made.lines.length === 0;
      if (follow.peek()) {
        made.trim();
        element.scrollTop = element.scrollHeight;
      } else {
        fresh.value += all.length;
      }
    };
    let again = false;
    let skip = 0;
    const begin = () => watch(
      () => {
        again = newest !== undefined;
        // What is of the very time of the last line comes again: it is passed over.
        skip = again ? seenAtNewest : 0;
        return again
          ? { watch: "logs", container: id, since: newest, numbers: true, grep: asked.peek() }
          : { watch: "logs", container: id, tail: PAGE, numbers: true, grep: asked.peek() };
      },
      (message) => {
        if (message.error) error.value = message.error;
        for (const entry of message.lines ?? []) {
          if (again && skip > 0 && entry.time === newest) { skip -= 1; continue; }
          skip = 0;
          if (entry.time === newest) seenAtNewest += 1;
          else { newest = entry.time; seenAtNewest = 1; }
          waiting.push(line(entry));
        }
        if (waiting.length && !frame) frame = requestAnimationFrame(draw);
      },
    );
    let stop = begin();
    followAgain.current = () => { stop(); stop = begin(); };
    toEnd.current = () => {
      follow.value = true;
      fresh.value = 0;
      if (endIsGone.current) generation.value += 1;
      else element.scrollTop = element.scrollHeight;
    };
    return () => { stop(); cancelAnimationFrame(frame); };
  }, [id, asked.value, generation.value]);

  // A log ends with its run; the next run's goes on from there.
  const lastRun = useRef(run);
  useEffect(() => {
    if (lastRun.current !== run) followAgain.current();
    lastRun.current = run;
  }, [run]);

  useEffect(() => { view.current?.redraw(); }, [times.value, numbers.value]);

  /** One page is read at a time. */
  const exclusively = async (work: () => Promise<void>) => {
    if (older.current) return;
    older.current = true;
    try {
      await work();
    } catch (failed) {
      error.value = failed;
    } finally {
      older.current = false;
    }
  };
  const asking = (of: Record<string, string>) => page(id, new URLSearchParams({ numbers: "true", ...of, ...(asked.value ? { grep: asked.value } : {}) }));

  const readOlder = async () => {
    const made = view.current;
    if (!made?.lines.length || beginning.value) return;
    // Lines of two streams may end in another order than they began.
    const first = Math.min(...made.lines.map((each) => each.number));
    await exclusively(async () => {
      const lines = await asking({ before: String(first), tail: String(PAGE) });
      // Another search, or another end of the log, was asked for meanwhile.
      if (view.current !== made) return;
      if (lines.length < PAGE) beginning.value = true;
      if (lines.length) {
        follow.value = false;
        made.prepend(lines);
        // What follows is read anew by whoever goes back to the end.
        if (made.trimEnd()) endIsGone.current = true;
      }
    });
  };

  /** The first lines of the log. */
  const readFirst = async () => {
    const made = view.current;
    if (!made) return;
    await exclusively(async () => {
      const lines = await asking({ head: String(PAGE) });
      if (view.current !== made) return;
      follow.value = false;
      beginning.value = true;
      // A log that is all here needs no other lines than these.
      if (lines.length === PAGE) {
        endIsGone.current = true;
        made.clear();
        made.append(lines);
      }
      if (box.current) { last.current = 0; box.current.scrollTop = 0; }
    });
  };

  /** The lines after the last one that is here, where the end of the log is not on the page. */
  const readNewer = async () => {
    const made = view.current;
    if (!made?.lines.length || !endIsGone.current) return;
    // Those that have not ended, and what came after their beginnings, are read anew.
    const open = made.lines.filter((each) => each.partial).map((each) => each.number);
    const after = open.length ? Math.min(...open) - 1 : Math.max(...made.lines.map((each) => each.number));
    await exclusively(async () => {
      const lines = await asking({ after: String(after), head: String(PAGE) });
      if (view.current !== made) return;
      const again = made.lines.filter((each) => each.number > after).length;
      // The end is reached: from here on it is followed.
      if (lines.length <= again) { toEnd.current(); return; }
      made.dropAfter(after);
      made.append(lines);
      if (made.trim()) beginning.value = false;
    });
  };

  const scrolled = () => {
    const element = box.current;
    if (!element) return;
    const rest = element.scrollHeight - element.scrollTop - element.clientHeight;
    const atEnd = rest < 30;
    if (endIsGone.current && rest < 400 && last.current < element.scrollTop) void readNewer();
    else if (atEnd && !follow.value && last.current < element.scrollTop) toEnd.current();
    else if (!atEnd && follow.value && element.scrollTop < last.current) follow.value = false;
    last.current = element.scrollTop;
    if (element.scrollTop < 400 && (view.current?.lines.length ?? 0) >= PAGE) void readOlder();
  };
  const last = useRef(0);

  const search = async (event: Event) => {
    event.preventDefault();
    const wanted = grep.value;
    asked.value = wanted;
    count.value = null;
    if (!wanted) return;
    try {
      const query = new URLSearchParams({ grep: wanted });
      const found = await (await send("GET", `v1/containers/${encodeURIComponent(id)}/logs/count?${query.toString()}`)).json() as { lines: number };
      if (asked.value === wanted) count.value = found.lines;
    } catch (failed) {
      error.value = failed;
    }
  };

  return (
    <div>
      <form class="row" onSubmit={(e) => void search(e)} style={{ marginBottom: ".6rem" }}>
        <input type="search" aria-label={t("log.search")} placeholder={t("log.search")} value={grep.value} onInput={(e) => { grep.value = e.currentTarget.value; if (!grep.value) { asked.value = ""; count.value = null; } }} style={{ flex: "1 1 16rem" }} />
        <button>{t("search")}</button>
        {count.value === null ? null : <span class="dim">{t("log.matches", { count: count.value })}</span>}
        <label><input type="checkbox" checked={follow.value} onChange={(e) => { if (e.currentTarget.checked) toEnd.current(); else follow.value = false; }} /> {t("log.follow")}</label>
        <label><input type="checkbox" checked={wrap.value} onChange={(e) => { wrap.value = e.currentTarget.checked; localStorage.setItem("log.wrap", wrap.value ? "yes" : "no"); }} /> {t("log.wrap")}</label>
        <label><input type="checkbox" checked={numbers.value} onChange={(e) => { numbers.value = e.currentTarget.checked; localStorage.setItem("log.numbers", numbers.value ? "yes" : "no"); }} /> {t("log.numbers")}</label>
        <label><input type="checkbox" checked={times.value} onChange={(e) => { times.value = e.currentTarget.checked; localStorage.setItem("log.times", times.value ? "yes" : "no"); }} /> {t("log.times")}</label>
        <button type="button" onClick={() => void send("GET", `v1/containers/${encodeURIComponent(id)}/logs?format=text`).then(async (a) => save(await a.blob(), `${name}.log`), (e: unknown) => { error.value = e; })}>{t("download")}</button>
      </form>
      {error.value === undefined ? null : <p class="error" role="alert">{said(error.value)}</p>}
      <div class={wrap.value ? "log wrap" : "log"} ref={box} onScroll={scrolled} tabIndex={0} role="log" aria-label={t("tab.logs")} aria-live="off" />
      <div class="row small dim" style={{ marginTop: ".4rem" }}>
        {empty.value ? <span>{t("log.empty")}</span> : null}
        {beginning.value ? <span>{t("log.begin")}</span> : <><button onClick={() => void readFirst()}>{t("log.first")}</button><button onClick={() => void readOlder()}>{t("log.older")}</button></>}
        {fresh.value > 0 ? <button class="primary" onClick={() => toEnd.current()}>{t("log.new", { count: fresh.value })}</button> : null}
        {online.value ? null : <span>{t("offline")}</span>}
      </div>
    </div>
  );
}
