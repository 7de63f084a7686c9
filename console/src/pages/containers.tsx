import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { change, get, type Problem as Fault, type Schema } from "../api";
import { ago, t, type Key } from "../i18n";
import { onEvent, reconnects } from "../live";
import { go, link, route } from "../router";
import { VirtualTable, type Column } from "../table";
import { act, ask, once, Problem, State, reportMany } from "../ui";
import { condition } from "./overview";
import { Create } from "./create";

type Summary = Schema["ContainerSummary"];
const PAGE = 200;
const STATES = ["running", "exited", "paused", "created"];

export function ports(list: Schema["Port"][]): string {
  return list.map((p) => `${p.host_port ?? ""}→${p.container_port ?? ""}${p.protocol === "udp" ? "/udp" : ""}`).join(", ");
}

/** One request that changes a container, after a question where it takes something away. */
export async function doTo(c: { id: string; name: string }, what: "start" | "stop" | "restart" | "pause" | "resume" | "kill" | "remove"): Promise<boolean> {
  const path = `v1/containers/${encodeURIComponent(c.id)}`;
  if (what === "stop" && !(await ask(t("ask.stop", { name: c.name })))) return false;
  if (what === "kill" && !(await ask(t("ask.kill", { name: c.name })))) return false;
  if (what === "remove") {
    const chosen = await ask(t("ask.remove", { name: c.name }), { options: [["force", t("ask.force")], ["volumes", t("ask.volumes")]] });
    if (!chosen) return false;
    const query = new URLSearchParams();
    for (const name of chosen) query.set(name, "true");
    return act(`${t("remove")} ${c.name}`, () => change("DELETE", `${path}?${query.toString()}`));
  }
  return act(`${t(what)} ${c.name}`, () => change("POST", `${path}/${what}`));
}

/** What is typed into the filter: words, `label:KEY=VALUE`, `health:unhealthy`, `host:NAME` and `group:SERVICE/GROUP`. */
function filters(typed: string): Record<string, string> {
  const found: Record<string, string> = {};
  const words = typed.split(/\s+/).filter((word) => {
    const match = /^(label|health|host|group):(.+)$/.exec(word);
    if (match?.[1] && match[2]) found[match[1]] = match[2];
    return !match;
  });
  return { ...found, text: words.join(" ").trim() };
}

/** How the list was looked at last: it is so again when one comes back to it. */
const remembered = { text: "", sort: "created", descending: true, top: 0 };

export function Containers() {
  const text = useSignal(remembered.text);
  const state = useSignal(route.value.query.get("state") ?? "");
  const sort = useSignal(remembered.sort);
  const descending = useSignal(remembered.descending);
  const total = useSignal(0);
  const states = useSignal<Record<string, number>>({});
  const error = useSignal<unknown>(undefined);
  const ready = useSignal(false);
  const drawn = useSignal(0);
  const chosen = useSignal<Map<string, Summary>>(new Map());
  const creating = useSignal(false);
  const pages = useRef(new Map<number, Summary[] | "asked">());
  const turn = useRef(0);
  const seen = useRef({ first: 0, last: 60 });
  const reading = useRef(0);
  const stale = useRef(false);

  const read = async (page: number, mine: number) => {
    const query = new URLSearchParams({
      ...filters(text.value), state: state.value, sort: sort.value, descending: String(descending.value), limit: String(PAGE), offset: String(page * PAGE),
    });
    reading.current += 1;
    try {
      const found = await get<Schema["ContainerSummaryList"]>(`v1/containers/summary?${query.toString()}`);
      if (mine !== turn.current) return;
      pages.current.set(page, found.items);
      states.value = found.states;
      total.value = state.value ? (found.states[state.value] ?? 0) : found.total;
      error.value = undefined;
      ready.value = true;
      drawn.value += 1;
    } catch (failed) {
      if (mine !== turn.current) return;
      error.value = failed;
      // What can't be, such as the name of a host that is half typed, is not asked for again.
      const status = (failed as Partial<Fault>).status ?? 0;
      if (status >= 400 && status < 500) { total.value = 0; ready.value = true; return; }
      pages.current.delete(page);
      setTimeout(() => { if (mine === turn.current) need(seen.current.first, seen.current.last); }, 2000);
    } finally {
      // Answers to what was asked for before are waited for by nobody.
      if (mine === turn.current) {
        reading.current -= 1;
        if (reading.current === 0 && stale.current) renew(true);
      }
    }
  };
  const need = (first: number, last: number) => {
    seen.current = { first, last };
    for (let page = Math.floor(first / PAGE); page <= Math.floor(Math.max(first, last - 1) / PAGE); page += 1) {
      if (pages.current.has(page)) continue;
      pages.current.set(page, "asked");
      void read(page, turn.current);
    }
  };
  /** Reads what is seen anew; until it is there, what was there stays. */
  const renew = (keep: boolean) => {
    stale.current = false;
    reading.current = 0;
    turn.current += 1;
    const old = pages.current;
    pages.current = new Map();
    const mine = turn.current;
    const first = keep ? Math.floor(seen.current.first / PAGE) : 0;
    const last = keep ? Math.floor(Math.max(0, seen.current.last - 1) / PAGE) : 0;
    if (!keep) document.querySelector("main .virtual")?.scrollTo({ top: 0 });
    for (let page = first; page <= last; page += 1) {
      const before = old.get(page);
      pages.current.set(page, before ?? "asked");
      void read(page, mine);
    }
    drawn.value += 1;
  };
  useEffect(() => {
    state.value = route.value.query.get("state") ?? "";
    const asked = route.value.query.get("text");
    if (asked !== null) text.value = asked;
  }, [route.value]);
  const first = useRef(true);
  useEffect(() => {
    Object.assign(remembered, { text: text.value, sort: sort.value, descending: descending.value });
    renew(first.current);
    first.current = false;
  }, [text.value, state.value, sort.value, descending.value]);
  useEffect(() => {
    const box = document.querySelector("main .virtual");
    if (box && ready.value) box.scrollTop = remembered.top;
    const keep = () => { remembered.top = box?.scrollTop ?? 0; };
    box?.addEventListener("scroll", keep);
    return () => box?.removeEventListener("scroll", keep);
  }, [ready.value]);
  useEffect(() => { renew(true); }, [reconnects.value]);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const stop = onEvent((event) => {
      if (!event.kind.startsWith("container.")) return;
      if (event.kind === "container.removed" && chosen.value.has(event.subject)) {
        const left = new Map(chosen.value);
        left.delete(event.subject);
        chosen.value = left;
      }
      timer ??= setTimeout(() => {
        timer = undefined;
        // Answers that take longer than changes need to come must be shown all the same: what is being read is waited for.
        if (reading.current > 0) stale.current = true;
        else renew(true);
      }, 250);
    });
    return () => { clearTimeout(timer); stop(); };
  }, []);

  const toggle = (c: Summary) => {
    const next = new Map(chosen.value);
    if (!next.delete(c.id)) next.set(c.id, c);
    chosen.value = next;
  };
  const columns: Column<Summary>[] = [
    { label: "", cell: (c) => <input type="checkbox" aria-label={c.name} checked={chosen.value.has(c.id)} onChange={() => toggle(c)} /> },
    { label: t("name"), sort: "name", cell: (c) => <a href={link("containers", c.id)}>{c.name}</a> },
    { label: t("state"), sort: "state", cell: (c) => <><State of={condition(c)} />{c.state === "exited" && c.exit_code !== null && c.exit_code !== undefined ? <span class="dim"> ({c.exit_code})</span> : null}</> },
    { label: t("image"), sort: "image", cell: (c) => c.image },
    { label: t("ports"), cell: (c) => ports(c.ports) },
    { label: t("address"), cell: (c) => c.address ?? "" },
    { label: t("restarts"), num: true, cell: (c) => c.restarts },
    { label: t("created"), sort: "created", cell: (c) => <span title={c.created_at}>{ago(c.created_at)}</span> },
    { label: t("id"), cell: (c) => <code>{c.id.slice(0, 12)}</code> },
  ];
  const row = (index: number) => {
    void drawn.value;
    const page = pages.current.get(Math.floor(index / PAGE));
    return page && page !== "asked" ? page[index % PAGE] : undefined;
  };
  const many = async (what: "start" | "stop" | "remove") => {
    const list = [...chosen.value.values()];
    let force = false;
    if (what !== "start") {
      const text = what === "remove" ? t("ask.remove_many", { count: list.length }) : t("ask.stop", { name: t("selected", { count: list.length }) });
      const options: [string, string][] = what === "remove" ? [["force", t("ask.force")]] : [];
      const answered = await ask(text, { options, details: list.map((c) => c.name) });
      if (!answered) return;
      force = answered.has("force");
    }
    const asked: Schema["BulkContainers"] = { action: what, containers: list.map((c) => c.id), ...(what === "remove" ? { force } : {}) };
    const answer = await once(t(what), () => change<{ items: Schema["BulkResult"][] }>("POST", "v1/bulk/containers", asked));
    if (!answer) return;
    const failed = new Set(reportMany(t(what), answer.items));
    chosen.value = new Map(list.filter((c) => failed.has(c.id)).map((c) => [c.id, c]));
  };
  const everything = Object.values(states.value).reduce((sum, count) => sum + count, 0);
  return (
    <>
      <div class="head">
        <h1>{t("containers")}</h1>
        <input type="search" aria-label={t("filter.containers")} title={t("filter.containers")} placeholder={`${t("filter.containers")}  ( / )`} value={text.value} onInput={(e) => { text.value = e.currentTarget.value; }} style={{ flex: "1 1 14rem", maxWidth: "26rem" }} />
        <div class="row" role="group" aria-label={t("state")}>
          <button class="chip" aria-pressed={state.value === ""} onClick={() => { go("containers"); }}>{t("all")} {everything}</button>
          {STATES.map((name) => (
            <button key={name} class="chip" aria-pressed={state.value === name} onClick={() => { location.hash = `${link("containers")}?state=${name}`; }}>{t(`state.${name}` as Key)} {states.value[name] ?? 0}</button>
          ))}
        </div>
        <span class="grow" />
        {chosen.value.size ? (
          <>
            <span class="dim">{t("selected", { count: chosen.value.size })}</span>
            <button onClick={() => void many("start")}>{t("start")}</button><button onClick={() => void many("stop")}>{t("stop")}</button>
            <button class="danger" onClick={() => void many("remove")}>{t("remove")}</button>
          </>
        ) : null}
        <button class="primary" onClick={() => { creating.value = true; }}>{t("create")}</button>
      </div>
      <Problem error={error.value} />
      {ready.value && total.value === 0 ? <p class="card dim">{everything === 0 && !text.value ? t("empty.containers") : t("empty.list")}</p> : (
        <VirtualTable columns={columns} count={total.value} row={row} name={(c) => c.id} need={need} label={t("containers")}
          sorted={{ by: sort.value, descending: descending.value }}
          sort={(by) => { if (by === sort.value) descending.value = !descending.value; else { sort.value = by; descending.value = false; } }} />
      )}
      {creating.value ? <Create close={() => { creating.value = false; }} /> : null}
    </>
  );
}
