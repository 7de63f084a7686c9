import { useSignal } from "@preact/signals";
import { Fragment } from "preact";
import { useEffect } from "preact/hooks";
import { all, change, get, session, type Schema } from "../api";
import { ago, bytes, number, t } from "../i18n";
import { link } from "../router";
import { act, Bar, Dialog, Field, Problem, useLoaded } from "../ui";

type Host = Schema["HostEntry"];

export function Hosts() {
  const hosts = useLoaded(() => all<Host>("v1/hosts"), [], (kind) => kind.startsWith("host."));
  useEffect(() => { const timer = setInterval(hosts.reload, 15_000); return () => clearInterval(timer); }, []);
  const edited = useSignal<Host | null>(null);
  const looked = useSignal<Host | null>(null);
  const places = new Map<string, Host[]>();
  for (const host of hosts.value ?? []) {
    const place = `${host.area || t("hosts.unset")} · ${host.operator || t("hosts.unset")}`;
    places.set(place, [...(places.get(place) ?? []), host]);
  }
  return (
    <>
      <div class="head"><h1>{t("hosts")}</h1></div>
      <Problem error={hosts.error} />
      {[...places].map(([place, list]) => (
        <section key={place}><h2>{place} <span class="dim small">{t("total", { count: list.length })}</span></h2>
          <div class="tiles">
            {list.map((host) => (
              <div key={host.id} class="card">
                <div class="row"><strong>{host.name}</strong> {host.ready ? <span class="state good">{t("hosts.ready")}</span> : <span class="state bad">{t("hosts.not_ready")}</span>}</div>
                <div class="small dim">{host.os} · {host.kernel} · {host.architecture}</div>
                <div>{t("cpu")}: {host.cpus} · {t("memory")}: {bytes(host.memory)}</div>
                <div>{t("hosts.capacity")}: {host.bandwidth_mbit || t("hosts.unset")}</div>
                {host.disks.map((disk) => <div key={disk.path} class="small">{disk.path} {bytes(disk.used)} / {bytes(disk.size)} {t("hosts.used")}<Bar used={disk.used} of={disk.size} /></div>)}
                <div class="small dim">{host.interfaces.map((link) => `${link.name} ${link.address}`).join(" · ")}</div>
                <div class="small dim">{t("hosts.heartbeat")}: {ago(host.heartbeat_at)}</div>
                <button onClick={() => { looked.value = host; }}>{t("detail")}</button> {session.value?.role === "admin" ? <button onClick={() => { edited.value = host; }}>{t("hosts.label")}</button> : null}
              </div>
            ))}
          </div>
        </section>
      ))}
      {looked.value ? <Detail host={looked.value} close={() => { looked.value = null; }} /> : null}
      {edited.value ? <Label host={edited.value} close={() => { edited.value = null; hosts.reload(); }} /> : null}
    </>
  );
}

/** What containers may have there, and what they have. */
function Detail({ host, close }: { host: Host; close: () => void }) {
  const found = useLoaded(() => get<Schema["HostUse"]>(`v1/hosts/${host.id}/use`), [host.id]);
  useEffect(() => { const timer = setInterval(found.reload, 3000); return () => clearInterval(timer); }, []);
  const use = found.value;
  const bound = (count: number) => (count ? ` · ${t("hosts.unbounded", { count })}` : "");
  return (
    <Dialog title={host.name} close={close}>
      <Problem error={found.error} />
      {use ? (
        <dl>
          <dt>{t("containers")}</dt><dd>{t("hosts.running", { running: use.running, count: use.containers })} <a href={`${link("containers")}?text=${encodeURIComponent(`host:${host.number}`)}`} onClick={close}>{t("open")}</a></dd>
          <dt>{t("cpu")}: {t("hosts.used")}</dt><dd>{number(use.cpus_used, 2)} / {host.cpus}<Bar used={use.cpus_used} of={host.cpus} /></dd>
          <dt>{t("cpu")}: {t("hosts.allotted")}</dt><dd>{number(use.cpus_allotted, 2)} / {host.cpus}{bound(use.without_cpu_bound)}<Bar used={use.cpus_allotted} of={host.cpus} /></dd>
          <dt>{t("memory")}: {t("hosts.used")}</dt><dd>{bytes(use.memory_used)} / {bytes(host.memory)}<Bar used={use.memory_used} of={host.memory} /></dd>
          <dt>{t("memory")}: {t("hosts.allotted")}</dt><dd>{bytes(use.memory_allotted)} / {bytes(host.memory)}{bound(use.without_memory_bound)}<Bar used={use.memory_allotted} of={host.memory} /></dd>
          {host.interfaces.map((each) => <Fragment key={each.name}><dt>{each.name}</dt><dd>{each.address}</dd></Fragment>)}
        </dl>
      ) : found.error === undefined ? <p class="dim">{t("loading")}</p> : null}
      <div class="actions"><button onClick={close}>{t("close")}</button></div>
    </Dialog>
  );
}

function Label({ host, close }: { host: Host; close: () => void }) {
  const form = useSignal({ name: host.name, area: host.area, operator: host.operator, bandwidth_mbit: String(host.bandwidth_mbit) });
  const f = form.value;
  const submit = async (event: Event) => {
    event.preventDefault();
    const body = { ...f, bandwidth_mbit: Number(f.bandwidth_mbit) };
    if (await act(host.name, () => change("PATCH", `v1/hosts/${host.id}`, body))) close();
  };
  const field = (name: "name" | "area" | "operator", label: string, list?: string) => (
    <Field label={label}><input value={f[name]} list={list} onInput={(e) => { form.value = { ...f, [name]: e.currentTarget.value }; }} /></Field>
  );
  return (
    <Dialog title={host.name} close={close}>
      <form onSubmit={(e) => void submit(e)}>
        {field("name", t("name"))}{field("area", t("hosts.area"))}{field("operator", t("hosts.operator"), "operators")}
        <datalist id="operators"><option value="移动" /><option value="联通" /><option value="电信" /></datalist>
        <Field label={t("hosts.capacity")}><input type="number" min="0" value={f.bandwidth_mbit} onInput={(e) => { form.value = { ...f, bandwidth_mbit: e.currentTarget.value }; }} /></Field>
        <div class="actions"><button type="button" onClick={close}>{t("cancel")}</button><button class="primary">{t("save")}</button></div>
      </form>
    </Dialog>
  );
}
