import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { change, get, send, type Problem as Fault, type Schema } from "../api";
import { ago, bits, bytes, instant, number, said, sentence, t, time } from "../i18n";
import { watch } from "../live";
import { Logs } from "../logs";
import { go, link, route } from "../router";
import { act, copy, Field, numeric, Problem, save, State, Tabs, toast, useLoaded } from "../ui";
import { condition } from "./overview";
import { doTo, ports } from "./containers";
import { Events } from "./events";
import { words } from "./create";
import type { Drawn } from "../chart";
import type { End, Shell } from "../terminal";

type Full = Schema["Container"];

export function Container() {
  const [, id = "", tab = "summary"] = route.value.path;
  const container = useSignal<Full | null>(null);
  const error = useSignal<unknown>(undefined);
  useEffect(() => watch(() => ({ watch: "container", container: id }), (message) => {
    if (message.container) { container.value = message.container; error.value = undefined; }
    if (message.error) error.value = message.error;
  }), [id]);
  const c = container.value;
  if (!c) return error.value === undefined ? <p class="dim">{t("loading")}</p> : <><div class="head"><h1><a href={link("containers")}>{t("containers")}</a> / {id}</h1></div><Problem error={error.value} /></>;
  if ((error.value as Fault | undefined)?.code === "not_found") {
    return <><div class="head"><h1><a href={link("containers")}>{t("containers")}</a> / {c.name}</h1><State of="removed" /></div><p class="card">{t("removed.hint")}</p></>;
  }
  const live = c.state === "running" || c.state === "paused";
  const shown = condition({ ...c, health: c.health?.status ?? null } as Parameters<typeof condition>[0]);
  return (
    <>
      <div class="head">
        <h1><a href={link("containers")}>{t("containers")}</a> / {c.name}</h1>
        <State of={shown} />
        {error.value === undefined ? null : <Problem error={error.value} />}
        <span class="grow" />
        {live ? null : <button class="primary" onClick={() => void doTo(c, "start")}>{t("start")}</button>}
        {live ? <button onClick={() => void doTo(c, "restart")}>{t("restart")}</button> : null}
        {c.state === "running" ? <button onClick={() => void doTo(c, "pause")}>{t("pause")}</button> : null}
        {c.state === "paused" ? <button onClick={() => void doTo(c, "resume")}>{t("resume")}</button> : null}
        {live || c.next_start ? <button onClick={() => void doTo(c, "stop")}>{t("stop")}</button> : null}
        {live ? <button class="danger" onClick={() => void doTo(c, "kill")}>{t("kill")}</button> : null}
        <button class="danger" onClick={() => void doTo(c, "remove").then((done) => { if (done) go("containers"); })}>{t("remove")}</button>
      </div>
      <Tabs chosen={tab} choose={(name) => go("containers", id, name)} names={[
        ["summary", t("tab.summary")], ["logs", t("tab.logs")], ["terminal", t("tab.terminal")], ["charts", t("tab.charts")],
        ["processes", t("tab.processes")], ["files", t("tab.files")], ["events", t("tab.events")], ["raw", t("tab.raw")],
      ]} />
      {tab === "summary" ? <Summary c={c} /> : null}
      {tab === "logs" ? <Logs id={c.id} name={c.name} run={c.started_at ?? ""} /> : null}
      {tab === "terminal" ? <Term id={c.id} running={c.state === "running"} /> : null}
      {tab === "charts" ? <Charts id={c.id} live={live} /> : null}
      {tab === "processes" ? <Processes id={c.id} live={live} /> : null}
      {tab === "files" ? <Files id={c.id} /> : null}
      {tab === "events" ? <section class="card"><Events subject={c.id} most={200} /></section> : null}
      {tab === "raw" ? <><p><button onClick={() => void copy(JSON.stringify(c, null, 2))}>{t("copy")}</button></p><pre>{JSON.stringify(c, null, 2)}</pre></> : null}
    </>
  );
}

function Summary({ c }: { c: Full }) {
  const name = useSignal(c.name);
  const traffic = useLoaded(() => get<Schema["Traffic"]>(`v1/containers/${c.id}/traffic`), [c.id, c.state]);
  const rows: [string, preact.ComponentChildren][] = [
    [t("id"), <code>{c.id}</code>], [t("image"), <>{c.image} <span class="dim small">{c.image_digest.slice(0, 19)}</span></>],
    [t("command"), <code>{c.command.join(" ")}</code>], [t("created"), `${time(c.created_at)} (${ago(c.created_at)})`],
    [t("started"), time(c.started_at)], [t("finished"), time(c.finished_at)],
    [t("exit_code"), c.exit_code ?? "–"], [t("restart_policy"), c.restart], [t("restarts"), c.restarts],
    [t("health"), c.health ? <><State of={c.health.status} /> {c.health.last_failure ?? ""}</> : "–"],
    [t("cpu_limit"), c.cpus ? number(c.cpus, 2) : "–"], [t("memory_limit"), bytes(c.memory)], [t("pids_limit"), c.pids ?? "–"],
    [t("user"), c.user || "root"], [t("working_dir"), c.working_dir], [t("hostname"), c.hostname],
  ];
  return (
    <>
      {c.error ? <p class="card error">{t("why")}: {sentence(c.error_parts, c.error)}</p> : null}
      <div class="two">
        <section class="card"><dl>{rows.map(([label, value]) => [<dt>{label}</dt>, <dd>{value}</dd>])}</dl></section>
        <div>
          <section class="card"><h2>{t("network")}</h2>
            <dl>
              <dt>{t("network")}</dt><dd>{c.network}</dd><dt>{t("address")}</dt><dd>{c.address ?? "–"}</dd>
              <dt>{t("ports")}</dt><dd>{c.ports.length ? ports(c.ports) : "–"}</dd>
              <dt>{t("traffic")}</dt><dd>{traffic.value ? `${t("traffic_in")} ${bytes(traffic.value.rx_bytes)} · ${t("traffic_out")} ${bytes(traffic.value.tx_bytes)}` : "–"}</dd>
            </dl>
            {c.network === "bridge" ? <Rates c={c} /> : null}
          </section>
          <section class="card"><h2>{t("rename")}</h2>
            <form class="row" onSubmit={(e) => { e.preventDefault(); void act(t("rename"), () => change("POST", `v1/containers/${c.id}/rename`, { name: name.value })); }}>
              <input aria-label={t("name")} value={name.value} onInput={(e) => { name.value = e.currentTarget.value; }} />
              <button disabled={name.value === c.name || !name.value}>{t("save")}</button>
            </form>
          </section>
        </div>
      </div>
      <section class="card"><h2>{t("environment")}</h2><pre>{c.env.join("\n") || t("none")}</pre></section>
      {c.mounts.length ? <section class="card"><h2>{t("mounts")}</h2><dl>{c.mounts.map((m) => [<dt>{m.target}</dt>, <dd>{m.type} {m.source ?? ""} {m.read_only ? "(ro)" : ""}</dd>])}</dl></section> : null}
      {Object.keys(c.labels).length ? <section class="card"><h2>{t("labels")}</h2><pre>{Object.entries(c.labels).map(([k, v]) => `${k}=${String(v)}`).join("\n")}</pre></section> : null}
    </>
  );
}

function Rates({ c }: { c: Full }) {
  // What was typed; a field that nobody touched shows what is the case, and is not sent.
  const typed = useSignal<{ ingress?: string; egress?: string }>({});
  const shown = (name: "ingress" | "egress") => typed.value[name] ?? (c[name] ? String((c[name] ?? 0) / 1e6) : "");
  const submit = async (event: Event) => {
    event.preventDefault();
    const done = await act(t("rate_limit"), async () => {
      const body: Record<string, number | null> = {};
      for (const [name, text] of Object.entries(typed.value)) body[name] = text.trim() ? Math.round(numeric(t(`create.${name as "ingress" | "egress"}`), text, 0.1, 10_000) * 1e6) : null;
      await change("PATCH", `v1/containers/${c.id}`, body);
    });
    if (done) typed.value = {};
  };
  const field = (name: "ingress" | "egress") => (
    <Field label={`${t(`create.${name}`)} (${bits(c[name])})`}><input inputMode="decimal" placeholder={t("rate_none")} value={shown(name)} onInput={(e) => { typed.value = { ...typed.value, [name]: e.currentTarget.value }; }} /></Field>
  );
  return (
    <form class="row" style={{ marginTop: ".8rem" }} onSubmit={(e) => void submit(e)}>
      {field("ingress")}{field("egress")}<button disabled={Object.keys(typed.value).length === 0}>{t("rate_change")}</button>
    </form>
  );
}

function Term({ id, running }: { id: string; running: boolean }) {
  const box = useRef<HTMLDivElement>(null);
  const command = useSignal("");
  const shell = useRef<Shell | undefined>(undefined);
  const state = useSignal<"off" | "on">("off");
  const message = useSignal("");
  const told = (what: End) => {
    state.value = "off";
    message.value = "code" in what ? t("term.ended", { code: what.code }) : "error" in what ? what.error : t("term.lost");
  };
  useEffect(() => {
    let live = true;
    void import("../terminal").then((module) => {
      const before = module.known(id);
      if (live && before && box.current) { shell.current = before; before.listen(told); before.show(box.current); state.value = "on"; }
    });
    return () => { live = false; };
  }, [id]);
  const connect = async (event: Event) => {
    event.preventDefault();
    if (state.value === "on") return;
    state.value = "on";
    message.value = "";
    const module = await import("../terminal");
    shell.current?.end();
    if (!box.current) { state.value = "off"; return; }
    box.current.replaceChildren();
    // What the image has: bash where it is there, else sh.
    const wanted = command.value.trim() ? words(command.value) : ["/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash || exec sh"];
    shell.current = module.open(id, wanted);
    shell.current.listen(told);
    shell.current.show(box.current);
  };
  return (
    <div>
      <form class="row" style={{ marginBottom: ".6rem" }} onSubmit={(e) => void connect(e)}>
        <input aria-label={t("term.command")} placeholder="bash / sh" value={command.value} disabled={state.value === "on"} onInput={(e) => { command.value = e.currentTarget.value; }} />
        {state.value === "off" ? <button class="primary" disabled={!running}>{t("term.connect")}</button> : <button type="button" onClick={() => { shell.current?.end(); state.value = "off"; }}>{t("term.disconnect")}</button>}
        <span class="dim" role="status">{message.value || (running ? "" : t("term.stopped"))}</span>
      </form>
      <div class="terminal" ref={box} />
    </div>
  );
}

/** Points of each chart that are kept: an hour of seconds, after an hour of readings. */
const POINTS = 4000;
const BLUE = "#2b8cc4", ORANGE = "#d9822b";

const seconds = (time: string) => instant(time) / 1000;

function Charts({ id, live }: { id: string; live: boolean }) {
  const hours = useSignal(0);
  return (
    <>
      <p><label>{t("chart.range")}{" "}
        <select value={hours.value} onChange={(e) => { hours.value = Number(e.currentTarget.value); }}>
          <option value={0}>{t("chart.range.live")}</option>
          {[6, 24].map((count) => <option key={count} value={count}>{t("bw.hours", { count })}</option>)}
          {[7, 30].map((count) => <option key={count} value={count * 24}>{t("bw.days", { count })}</option>)}
        </select>
      </label></p>
      {hours.value === 0 ? <LiveCharts id={id} live={live} /> : <History key={hours.value} id={id} hours={hours.value} />}
    </>
  );
}

/** The points that the server has kept: what was carried and used in each five minutes. */
function History({ id, hours }: { id: string; hours: number }) {
  const boxes = { cpu: useRef<HTMLDivElement>(null), memory: useRef<HTMLDivElement>(null), network: useRef<HTMLDivElement>(null), disk: useRef<HTMLDivElement>(null) };
  const from = Math.floor(Date.now() / 1000) - hours * 3600;
  const { value, error } = useLoaded(() => get<Schema["Bandwidth"]>(`v1/bandwidth?${new URLSearchParams({ by: "container", key: id, from: String(from) }).toString()}`), [id, hours]);
  useEffect(() => {
    if (!value?.points.length) return undefined;
    let over = false;
    let drawn: Drawn[] = [];
    void import("../chart").then(({ draw }) => {
      if (over) return;
      const times = value.points.map((point) => seconds(point.time));
      const put = (box: HTMLDivElement | null, lines: [string, string, (point: Schema["BandwidthPoint"]) => number][]) => {
        if (!box) return;
        const made = draw(box, lines.map(([label, colour]) => ({ label, colour })));
        made.set([times, ...lines.map(([, , read]) => value.points.map(read))]);
        drawn.push(made);
      };
      put(boxes.cpu.current, [[t("cpu"), BLUE, (p) => p.cpus * 100]]);
      put(boxes.memory.current, [[t("memory"), BLUE, (p) => p.memory_mib]]);
      put(boxes.network.current, [[t("traffic_in"), BLUE, (p) => p.down_mbit], [t("traffic_out"), ORANGE, (p) => p.up_mbit]]);
      put(boxes.disk.current, [[t("written"), ORANGE, (p) => p.disk_mib]]);
    });
    return () => { over = true; for (const each of drawn) each.end(); drawn = []; };
  }, [value]);
  if (!value) return error === undefined ? <p class="dim">{t("loading")}</p> : <Problem error={error} />;
  if (value.points.length === 0) return <p class="card dim">{t("bw.none")}</p>;
  return (
    <>
      <p class="dim">{t("chart.history")} · {t("bw.p95")} {number(value.p95_mbit, 3)} Mbit/s</p>
      <div class="charts">
        {(["cpu", "memory", "network", "disk"] as const).map((name) => <section key={name} class="card"><h2>{t(`chart.${name}`)}</h2><div class="chart" ref={boxes[name]} /></section>)}
      </div>
    </>
  );
}

function LiveCharts({ id, live }: { id: string; live: boolean }) {
  const boxes = { cpu: useRef<HTMLDivElement>(null), memory: useRef<HTMLDivElement>(null), network: useRef<HTMLDivElement>(null), block: useRef<HTMLDivElement>(null) };
  const last = useSignal<Schema["Stats"] | null>(null);
  const error = useSignal<unknown>(undefined);
  useEffect(() => {
    let drawn: Record<string, Drawn> = {};
    let stop = () => { /* not begun */ };
    let over = false;
    error.value = undefined;
    const series = get<{ items: Schema["UsagePoint"][] }>(`v1/containers/${id}/series`).then((list) => list.items, (failed: unknown) => { error.value = failed; return []; });
    void Promise.all([import("../chart"), series]).then(([{ draw }, readings]) => {
      if (over || !boxes.cpu.current || !boxes.memory.current || !boxes.network.current || !boxes.block.current) return;
      drawn = {
        cpu: draw(boxes.cpu.current, [{ label: t("cpu"), colour: BLUE }]),
        memory: draw(boxes.memory.current, [{ label: t("memory"), colour: BLUE }]),
        network: draw(boxes.network.current, [{ label: t("traffic_in"), colour: BLUE }, { label: t("traffic_out"), colour: ORANGE }]),
        block: draw(boxes.block.current, [{ label: t("read"), colour: BLUE }, { label: t("written"), colour: ORANGE }]),
      };
      const data: Record<string, number[][]> = { cpu: [[], []], memory: [[], []], network: [[], [], []], block: [[], [], []] };
      // What the server has read every ten seconds; between two readings nothing was used where there is none.
      const put = (name: string, at: number, ...values: (number | null)[]) => [at, ...values].forEach((value, row) => (data[name] as (number | null)[][])[row]?.push(value));
      let end = 0;
      for (const reading of readings) {
        const from = seconds(reading.from), to = seconds(reading.to), length = Math.max(to - from, 0.001);
        // A gap between readings interrupts the line.
        if (end > 0 && from - end > 1) for (const name of Object.keys(data)) put(name, end + 0.5, ...(name === "cpu" || name === "memory" ? [null] : [null, null]));
        put("cpu", to, reading.cpus * 100);
        put("memory", to, reading.memory_mib);
        put("network", to, reading.rx_bytes / length / 125000, reading.tx_bytes / length / 125000);
        put("block", to, reading.block_read / length / 1048576, reading.block_write / length / 1048576);
        end = to;
      }
      for (const [name, plot] of Object.entries(drawn)) plot.set(data[name] as number[][]);
      if (!live) return;
      let before: Schema["Stats"] | null = null;
      stop = watch(() => ({ watch: "stats", container: id }), (message) => {
        const s = message.stats?.[0];
        if (!s) return;
        const at = seconds(s.time);
        const passed = before ? at - seconds(before.time) : 0;
        const rate = (now: number, then: number, size: number) => (passed > 0 ? Math.max(0, now - then) / passed / size : 0);
        const add = (name: string, ...values: number[]) => {
          const rows = data[name] as number[][];
          [at, ...values].forEach((value, row) => { const list = rows[row] as number[]; list.push(value); if (list.length > POINTS) list.shift(); });
          drawn[name]?.set(rows);
        };
        add("cpu", s.cpu_percent);
        add("memory", s.memory / 1048576);
        if (before) {
          add("network", rate(s.rx_bytes, before.rx_bytes, 125000), rate(s.tx_bytes, before.tx_bytes, 125000));
          add("block", rate(s.block_read, before.block_read, 1048576), rate(s.block_write, before.block_write, 1048576));
        }
        before = s;
        last.value = s;
      });
    });
    return () => { over = true; stop(); for (const each of Object.values(drawn)) each.end(); };
  }, [id, live]);
  const s = last.value;
  return (
    <>
      <Problem error={error.value} />
      <p class="dim">{!live ? t("charts.stopped") : s ? t("chart.live") : t("chart.waiting")}{s ? ` · ${t("cpu")} ${number(s.cpu_percent, 1)} % · ${t("memory")} ${bytes(s.memory)} / ${bytes(s.memory_limit)} · ${t("pids")} ${s.pids}` : ""}</p>
      <div class="charts">
        {(["cpu", "memory", "network", "block"] as const).map((name) => <section key={name} class="card"><h2>{t(`chart.${name}`)}</h2><div class="chart" ref={boxes[name]} /></section>)}
      </div>
    </>
  );
}

function Processes({ id, live }: { id: string; live: boolean }) {
  const { value, error, reload } = useLoaded(() => live ? get<{ items: Schema["Process"][] }>(`v1/containers/${id}/processes`) : Promise.resolve({ items: [] }), [id, live]);
  useEffect(() => { const timer = setInterval(reload, 3000); return () => clearInterval(timer); }, []);
  return (
    <section class="card">
      <Problem error={error} />
      <div class="scroll" tabIndex={0}><table>
        <thead><tr><th scope="col" class="num">PID</th><th scope="col">{t("user")}</th><th scope="col" class="num">{t("cpu")}</th><th scope="col">{t("started")}</th><th scope="col">{t("command")}</th></tr></thead>
        <tbody>{(value?.items ?? []).map((p) => <tr key={p.pid}><td class="num">{p.pid}</td><td>{p.uid}</td><td class="num">{number(p.cpu_ms / 1000, 2)} s</td><td>{time(p.started_at)}</td><td><code>{p.command.join(" ")}</code></td></tr>)}</tbody>
      </table></div>
    </section>
  );
}

function Files({ id }: { id: string }) {
  const path = useSignal("/");
  const typed = useSignal("/");
  const { value, error, reload } = useLoaded(() => get<{ items: Schema["FileStat"][] }>(`v1/containers/${id}/files/list?${new URLSearchParams({ path: path.value }).toString()}`), [id, path.value]);
  const enter = (to: string) => { path.value = to; typed.value = to; };
  const below = (name: string) => `${path.value.replace(/\/$/, "")}/${name}`;
  const fetchFile = async (file: Schema["FileStat"]) => {
    const query = new URLSearchParams({ path: below(file.name) });
    try {
      const answer = await send("GET", `v1/containers/${id}/${file.kind === "folder" ? "archive" : "files"}?${query.toString()}`);
      save(await answer.blob(), file.kind === "folder" ? `${file.name}.tar` : file.name);
    } catch (failed) {
      toast(said(failed), true);
    }
  };
  const upload = (file: File | undefined) => {
    if (!file) return;
    const query = new URLSearchParams({ path: path.value });
    void act(file.name, () => send("PUT", `v1/containers/${id}/archive?${query.toString()}`, file, "application/x-tar")).then(reload);
  };
  return (
    <section class="card">
      <form class="row" onSubmit={(e) => { e.preventDefault(); enter(typed.value); }}>
        <button type="button" onClick={() => enter(path.value.replace(/\/[^/]*\/?$/, "") || "/")}>{t("files.up")}</button>
        <input aria-label={t("files.path")} value={typed.value} style={{ flex: 1 }} onInput={(e) => { typed.value = e.currentTarget.value; }} />
        <button>{t("open")}</button>
        <label class="button">{t("files.upload")} <input type="file" hidden onChange={(e) => { upload(e.currentTarget.files?.[0]); e.currentTarget.value = ""; }} /></label>
      </form>
      <Problem error={error} />
      <div class="scroll" tabIndex={0}><table>
        <thead><tr><th scope="col">{t("name")}</th><th scope="col">{t("kind")}</th><th scope="col" class="num">{t("size")}</th><th scope="col">{t("time")}</th><th scope="col" /></tr></thead>
        <tbody>
          {(value?.items ?? []).map((file) => (
            <tr key={file.name}>
              <td>{file.kind === "folder" || file.kind === "link" ? <button class="plain" style={{ padding: 0, color: "var(--accent)" }} onClick={() => enter(below(file.name))}>{file.name}{file.kind === "folder" ? "/" : ""}</button> : file.name}{file.target ? <span class="dim"> → {file.target}</span> : null}</td>
              <td>{file.kind === "folder" ? t("files.kind.dir") : file.kind === "link" ? t("files.kind.link") : file.kind === "file" ? t("files.kind.file") : file.kind}</td>
              <td class="num">{file.kind === "file" ? bytes(file.size) : ""}</td><td>{time(file.modified)}</td>
              <td>{file.kind === "file" || file.kind === "folder" ? <button onClick={() => void fetchFile(file)}>{t("download")}</button> : null}</td>
            </tr>
          ))}
        </tbody>
      </table></div>
    </section>
  );
}
