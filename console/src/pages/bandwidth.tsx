import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { get, send, session, type Schema } from "../api";
import { bytes, instant, number, said, t, type Key } from "../i18n";
import { Table } from "../table";
import { Problem, save, toast, useLoaded } from "../ui";
import type { Drawn } from "../chart";

const KINDS = ["account", "host", "image", "version", "container"];

export function Bandwidth() {
  const by = useSignal("account");
  const key = useSignal("");
  const hours = useSignal(24);
  const asked = useSignal(0);
  const query = () => {
    const made = new URLSearchParams({ by: by.value, from: String(Math.floor(Date.now() / 1000) - hours.value * 3600) });
    if (key.value.trim()) made.set("key", key.value.trim());
    return made;
  };
  const found = useLoaded(() => (by.value === "container" && !key.value.trim() ? Promise.reject(new Error(t("bw.need_key"))) : get<Schema["Bandwidth"]>(`v1/bandwidth?${query().toString()}`)), [by.value, hours.value, asked.value]);
  const box = useRef<HTMLDivElement>(null);
  const drawn = useRef<Drawn | null>(null);
  const level = useRef<number | undefined>(undefined);
  const points = found.value?.points ?? [];
  level.current = points.length ? found.value?.p95_mbit : undefined;
  const times = new Map<number, [number, number]>();
  for (const point of points) {
    const at = instant(point.time) / 1000;
    const sum = times.get(at) ?? [0, 0];
    times.set(at, [sum[0] + point.up_mbit, sum[1] + point.down_mbit]);
  }
  const rows = [...times].sort(([a], [b]) => a - b);
  const data = [rows.map(([at]) => at), rows.map(([, [up]]) => up), rows.map(([, [, down]]) => down)];
  const latest = useRef(data);
  latest.current = data;
  useEffect(() => {
    let over = false;
    void import("../chart").then(({ draw }) => {
      if (over || !box.current) return;
      drawn.current = draw(box.current, [{ label: t("bw.up"), colour: "#d9822b" }, { label: t("bw.down"), colour: "#2b8cc4" }], () => level.current);
      drawn.current.set(latest.current);
    });
    return () => { over = true; drawn.current?.end(); drawn.current = null; };
  }, []);
  useEffect(() => { drawn.current?.set(latest.current); }, [found.value]);
  const csv = async () => {
    const made = query();
    made.set("format", "csv");
    try { save(await (await send("GET", `v1/bandwidth?${made.toString()}`)).blob(), "bandwidth.csv"); } catch (failed) { toast(said(failed), true); }
  };
  return (
    <>
      <div class="head"><h1>{t("bandwidth")}</h1></div>
      <form class="row card" onSubmit={(e) => { e.preventDefault(); asked.value += 1; }}>
        <label>{t("bw.by")} <select value={by.value} onChange={(e) => { by.value = e.currentTarget.value; key.value = ""; }}>{KINDS.map((kind) => <option key={kind} value={kind}>{t(`bw.${kind}` as Key)}</option>)}</select></label>
        <input aria-label={t("bw.key")} placeholder={t("bw.key")} value={key.value} onInput={(e) => { key.value = e.currentTarget.value; }} />
        <label>{t("bw.range")} <select value={hours.value} onChange={(e) => { hours.value = Number(e.currentTarget.value); }}>
          {[1, 6, 24].map((count) => <option key={count} value={count}>{t("bw.hours", { count })}</option>)}
          {[7, 30].map((count) => <option key={count} value={count * 24}>{t("bw.days", { count })}</option>)}
        </select></label>
        <button class="primary">{t("refresh")}</button><button type="button" onClick={() => void csv()}>{t("bw.csv")}</button>
      </form>
      <Problem error={found.error} />
      <div class="cards"><div class="card"><div class="dim">{t("bw.p95")}</div><div class="big">{found.value ? number(found.value.p95_mbit, 3) : "–"} Mbit/s</div></div></div>
      <section class="card"><h2>{t("chart.bandwidth")}</h2>{found.value && points.length === 0 ? <p class="dim">{t("bw.none")}</p> : null}<div class="chart" ref={box} /></section>
    </>
  );
}

export function Usage() {
  const everybody = useSignal(false);
  const found = useLoaded(() => get<{ items: Schema["Usage"][] }>(`v1/usage${everybody.value ? "?all=true" : ""}`), [everybody.value]);
  const hour = 3_600_000;
  const csv = async () => {
    try { save(await (await send("GET", `v1/usage?format=csv${everybody.value ? "&all=true" : ""}`)).blob(), "usage.csv"); } catch (failed) { toast(said(failed), true); }
  };
  return (
    <>
      <div class="head"><h1>{t("usage")}</h1><span class="grow" />
        {session.value?.role === "admin" ? <label><input type="checkbox" checked={everybody.value} onChange={(e) => { everybody.value = e.currentTarget.checked; }} /> {t("usage.all")}</label> : null}
        <button onClick={() => void csv()}>{t("bw.csv")}</button>
      </div>
      <Problem error={found.error} />
      <Table name={(u) => u.number} rows={found.value?.items ?? []} columns={[
        { label: t("usage.account"), cell: (u) => u.account }, { label: t("name"), cell: (u) => u.name }, { label: t("image"), cell: (u) => u.image },
        { label: t("usage.ran"), num: true, cell: (u) => number(u.ran_ms / hour, 2) },
        { label: t("usage.cpu"), num: true, cell: (u) => number(u.cpu_us / 1000 / hour, 3) },
        { label: t("usage.memory"), num: true, cell: (u) => number(u.memory_mib_ms / 1024 / hour, 3) },
        { label: t("traffic_in"), num: true, cell: (u) => <span title={String(u.rx_bytes)}>{bytes(u.rx_bytes)}</span> },
        { label: t("traffic_out"), num: true, cell: (u) => <span title={String(u.tx_bytes)}>{bytes(u.tx_bytes)}</span> },
      ]} />
    </>
  );
}
