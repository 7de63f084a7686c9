import { useSignal } from "@preact/signals";
import { all, get, session, type Schema } from "../api";
import { language, t, theme, time, zone } from "../i18n";
import { Table } from "../table";
import { Field, Problem, State, useLoaded } from "../ui";

export function Settings() {
  return (
    <>
      <div class="head"><h1>{t("settings")}</h1></div>
      <section class="card two">
        <Field label={t("set.language")}><select value={language.value} onChange={(e) => { language.value = e.currentTarget.value === "zh" ? "zh" : "en"; }}><option value="zh">中文</option><option value="en">English</option></select></Field>
        <Field label={t("set.theme")}><select value={theme.value} onChange={(e) => { theme.value = e.currentTarget.value; }}><option value="auto">{t("set.theme.auto")}</option><option value="light">{t("set.theme.light")}</option><option value="dark">{t("set.theme.dark")}</option></select></Field>
        <Field label={t("set.zone")}><select value={zone.value} onChange={(e) => { zone.value = e.currentTarget.value; }}><option value="local">{t("set.zone.local")} ({Intl.DateTimeFormat().resolvedOptions().timeZone})</option><option value="utc">{t("set.zone.utc")}</option></select></Field>
      </section>
      <section class="card"><h2>{t("set.session")}</h2><p>{session.value?.account} · {t(session.value?.role === "admin" ? "acc.role.admin" : "acc.role.user")} · {session.value?.expires_at ? t("set.session_ends", { time: time(session.value.expires_at) }) : ""}</p></section>
    </>
  );
}

/** What the machine lacks; the server says it in the language of the page. */
export function Doctor() {
  const found = useLoaded(() => all<Schema["Finding"]>("v1/doctor"), [language.value]);
  const count = (state: string) => (found.value ?? []).filter((each) => each.state === state).length;
  return (
    <>
      <div class="head"><h1>{t("doctor")}</h1><span class="grow" /><button onClick={found.reload}>{t("doctor.again")}</button></div>
      <Problem error={found.error} />
      {found.value ? <p>{count("missing") + count("warning") === 0 ? t("doctor.good") : t("doctor.bad", { count: count("missing"), warnings: count("warning") })}</p> : null}
      <Table name={(each) => each.what} rows={found.value ?? []} columns={[
        { label: t("state"), cell: (each) => <State of={each.state} /> }, { label: t("doctor.what"), cell: (each) => each.what },
        { label: t("doctor.found"), cell: (each) => each.found }, { label: t("doctor.advice"), cell: (each) => each.advice ?? "" },
      ]} />
    </>
  );
}

export function About() {
  const path = document.querySelector<HTMLMetaElement>('meta[name="berth-licences"]')?.content ?? "";
  const licences = useLoaded(async () => (await fetch(new URL(path, document.baseURI))).text(), []);
  return (
    <>
      <div class="head"><h1>{t("about")}</h1></div>
      <p>{t("about.version", { version: session.value?.version ?? "" })} · <a href="docs/">{t("about.api")}</a></p>
      <h2>{t("about.licences")}</h2>
      <Problem error={licences.error} />
      <pre tabIndex={0}>{licences.value ?? t("loading")}</pre>
    </>
  );
}

export function Audit() {
  const cursor = useSignal<string | undefined>(undefined);
  const older = useSignal<Schema["AuditEntry"][]>([]);
  const found = useLoaded(() => get<{ items: Schema["AuditEntry"][]; next_cursor?: string }>("v1/audit?limit=200"), []);
  const rows = [...(found.value?.items ?? []), ...older.value];
  const next = cursor.value ?? found.value?.next_cursor;
  const more = async () => {
    const page = await get<{ items: Schema["AuditEntry"][]; next_cursor?: string }>(`v1/audit?limit=200&cursor=${encodeURIComponent(next ?? "")}`);
    older.value = [...older.value, ...page.items];
    cursor.value = page.next_cursor ?? "";
  };
  return (
    <>
      <div class="head"><h1>{t("audit")}</h1><span class="grow" /><button onClick={() => { older.value = []; cursor.value = undefined; found.reload(); }}>{t("refresh")}</button></div>
      <Problem error={found.error} />
      <Table name={(e) => e.number} rows={rows} columns={[
        { label: t("time"), cell: (e) => time(e.time) }, { label: t("audit.who"), cell: (e) => e.who }, { label: t("audit.from"), cell: (e) => `${e.from} · ${e.dialect}` },
        { label: t("audit.action"), cell: (e) => <code>{e.action}</code> }, { label: t("audit.status"), num: true, cell: (e) => e.status },
        { label: t("message"), cell: (e) => `${e.message}${(e.count ?? 1) > 1 ? ` (×${e.count})` : ""}` },
      ]} />
      {next ? <p><button onClick={() => void more()}>{t("more")}</button></p> : null}
    </>
  );
}
