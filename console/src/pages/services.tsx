import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { change, get, type Schema } from "../api";
import { said, t, time } from "../i18n";
import { go, link } from "../router";
import { ask, Dialog, Field, once, Problem, State, toast, useLoaded } from "../ui";

type Group = Schema["Group"];
type Command = Schema["Command"];

const pathOf = (group: Group) => `v1/services/${encodeURIComponent(group.service)}/groups/${encodeURIComponent(group.name)}`;

export function Services() {
  const groups = useLoaded(() => get<{ items: Group[] }>("v1/groups"), [], () => true);
  const applying = useSignal(false);
  const detail = useSignal<string | null>(null);
  const run = async (name: string, work: () => Promise<Command>) => {
    await once(name, async () => { const made = await work(); toast(t("result.begun")); go("operations", made.id); });
  };
  const remove = async (group: Group) => {
    const name = `${group.service}/${group.name}`;
    if (await ask(t("ask.remove", { name }), { typed: name })) await run(`${t("remove")} ${name}`, () => change<Command>("DELETE", pathOf(group)));
  };
  const shown = groups.value?.items.find((group) => `${group.service}/${group.name}` === detail.value);
  return (
    <>
      <div class="head"><h1>{t("services")}</h1><span class="grow" /><button class="primary" onClick={() => { applying.value = true; }}>{t("services.apply")}</button></div>
      <Problem error={groups.error} />
      {groups.value?.items.length === 0 ? <p class="card dim">{t("empty.services")}</p> : null}
      {(groups.value?.items ?? []).map((group) => {
        const good = group.containers.filter((c) => c.state === "running" && c.health?.status !== "unhealthy").length;
        return (
          <section key={group.number} class="card">
            <div class="head" style={{ margin: 0 }}>
              <h2 style={{ margin: 0 }}>{group.service}/{group.name}</h2><State of={group.state} />
              <span>{t("services.replicas")}: {good}/{group.spec.replicas}</span><span class="dim">{group.spec.image} · {t("services.version")} {group.version}</span>
              <span class="dim">{group.ports.map((p) => `${p.host_port}→${p.container_port}`).join(", ")}</span>
              <span class="grow" />
              <button onClick={() => { detail.value = `${group.service}/${group.name}`; }}>{t("detail")}</button>
              {group.state === "running"
                ? <button onClick={() => void ask(t("ask.stop", { name: group.name })).then((yes) => { if (yes) void run(`${t("stop")} ${group.service}/${group.name}`, () => change<Command>("POST", `${pathOf(group)}/stop`, {})); })}>{t("stop")}</button>
                : <button onClick={() => void run(`${t("start")} ${group.service}/${group.name}`, () => change<Command>("POST", `${pathOf(group)}/start`, {}))}>{t("start")}</button>}
              <button class="danger" onClick={() => void remove(group)}>{t("remove")}</button>
            </div>
            <div class="row small">{group.containers.map((c) => <a key={c.id} href={link("containers", c.id)}>{c.name} <State of={c.health?.status && c.state === "running" ? c.health.status : c.state} /></a>)}</div>
          </section>
        );
      })}
      {applying.value ? <ApplyFile close={() => { applying.value = false; groups.reload(); }} /> : null}
      {shown ? <Detail group={shown} run={run} close={() => { detail.value = null; }} /> : null}
    </>
  );
}

function Detail({ group, run, close }: { group: Group; run: (name: string, work: () => Promise<Command>) => Promise<void>; close: () => void }) {
  const packages = useLoaded(() => get<{ items: Schema["Package"][] }>(`${pathOf(group)}/packages`), [group.number, group.version]);
  const revisions = useLoaded(() => get<{ items: Schema["GroupRevision"][] }>(`${pathOf(group)}/revisions`), [group.number, JSON.stringify(group.spec)]);
  const url = useSignal("");
  const deploy = (body: object) => void run(`${t("services.deploy")} ${group.service}/${group.name}`, () => change<Command>("POST", `${pathOf(group)}/deploy`, body)).then(close);
  return (
    <Dialog title={`${group.service}/${group.name}`} close={close}>
      <form class="row" onSubmit={(e) => { e.preventDefault(); deploy({ url: url.value }); }}>
        <input required style={{ flex: 1 }} aria-label={t("services.deploy_url")} placeholder={t("services.deploy_url")} value={url.value} onInput={(e) => { url.value = e.currentTarget.value; }} /><button class="primary">{t("services.deploy")}</button>
      </form>
      <h2>{t("services.versions")}</h2>
      <Problem error={packages.error} />
      <div class="scroll" tabIndex={0}><table><tbody>
        {(packages.value?.items ?? []).map((p) => (
          <tr key={p.version}><td class="num">{p.version}</td><td>{p.name}</td><td>{time(p.created_at)}</td>
            <td>{p.current ? <span class="chip">{t("services.current")}</span> : <button onClick={() => deploy({ version: p.version })}>{t("services.roll_back", { version: p.version })}</button>}</td></tr>
        ))}
      </tbody></table></div>
      <h2>{t("services.revisions")}</h2>
      <Problem error={revisions.error} />
      <div class="scroll" tabIndex={0}><table><tbody>
        {(revisions.value?.items ?? []).map((each, index, all) => (
          <tr key={each.revision}><td class="num">{each.revision}</td><td>{each.spec.image}</td><td>{changedFields(all[index - 1]?.spec, each.spec)}</td><td>{time(each.created_at)}</td>
            <td>{each.current ? <span class="chip">{t("services.current")}</span> : <button onClick={() => deploy({ revision: each.revision })}>{t("services.roll_back_revision", { revision: each.revision })}</button>}</td></tr>
        ))}
      </tbody></table></div>
      <h2>{t("tab.raw")}</h2>
      <pre>{JSON.stringify(group.spec, null, 2)}</pre>
      <div class="actions"><button onClick={close}>{t("close")}</button></div>
    </Dialog>
  );
}

/** Names of the fields in which a revision differs from the one before. */
function changedFields(before: Schema["GroupSpec"] | undefined, after: Schema["GroupSpec"]): string {
  if (!before) return "";
  const [old, now] = [before, after].map((spec) => new Map(Object.entries(spec).map(([name, value]) => [name, JSON.stringify(value)])));
  return [...new Set([...old!.keys(), ...now!.keys()])].filter((name) => old!.get(name) !== now!.get(name)).join(", ");
}

const EXAMPLE = { services: { shop: { web: { replicas: 2, image: "nginx:latest", ports: [{ container_port: 80, host_port: 8081 }] } } } };

function ApplyFile({ close }: { close: () => void }) {
  const text = useSignal(JSON.stringify(EXAMPLE, null, 2));
  const found = useSignal<Schema["Applied"][] | null>(null);
  const error = useSignal<unknown>(undefined);
  const sending = useRef(false);
  const send = async (dry: boolean) => {
    if (sending.current) return;
    sending.current = true;
    error.value = undefined;
    try {
      const body: unknown = JSON.parse(text.value);
      const answer = await change<{ items: Schema["Applied"][] }>("POST", `v1/apply?dry_run=${dry}`, body);
      found.value = answer.items;
      if (!dry) {
        toast(t("result.begun"));
        close();
        const first = answer.items.find((each) => each.command)?.command;
        if (first && typeof first === "object" && "id" in first) go("operations", String(first.id));
      }
    } catch (failed) { error.value = failed instanceof SyntaxError ? failed.message : failed; } finally { sending.current = false; }
  };
  return (
    <Dialog title={t("services.apply")} close={close}>
      <Field label={t("services.apply_text")}><textarea spellcheck={false} value={text.value} onInput={(e) => { text.value = e.currentTarget.value; found.value = null; }} /></Field>
      {error.value === undefined ? null : <p class="error" role="alert">{said(error.value)}</p>}
      {found.value ? (
        <section><h2>{t("services.changes")}</h2>
          {found.value.every((each) => each.action === "none") ? <p>{t("services.no_changes")}</p> : null}
          {found.value.map((each) => (
            <div key={each.group}><strong>{each.group}</strong>: {t(`apply.${each.action}`)}
              <pre>{each.differences.map((d) => `${d.field}: ${JSON.stringify(d.from) ?? "–"} → ${JSON.stringify(d.to) ?? "–"}`).join("\n") || "–"}</pre>
            </div>
          ))}
        </section>
      ) : null}
      <div class="actions">
        <button onClick={close}>{t("cancel")}</button><button onClick={() => void send(true)}>{t("services.diff")}</button>
        <button class="primary" disabled={!found.value} onClick={() => void send(false)}>{t("services.apply_now")}</button>
      </div>
    </Dialog>
  );
}
