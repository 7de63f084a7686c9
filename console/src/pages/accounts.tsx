import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { accountsChanged, all, change, get, session, type Schema } from "../api";
import { ago, bits, bytes, t, time } from "../i18n";
import { go, route } from "../router";
import { Table } from "../table";
import { act, ask, Dialog, Field, numeric, Problem, Secret, Tabs, useLoaded } from "../ui";

export function Accounts() {
  const admin = session.value?.role === "admin";
  const tab = route.value.path[1] ?? (admin ? "accounts" : "tokens");
  const names: [string, string][] = [["tokens", t("acc.tokens")], ["keys", t("acc.keys")], ["ssh", t("acc.ssh")], ["registries", t("acc.registries")]];
  if (admin) names.unshift(["accounts", t("acc.accounts")]);
  return (
    <>
      <div class="head"><h1>{t("accounts")}</h1></div>
      <Tabs names={names} chosen={tab} choose={(name) => go("accounts", name)} />
      {tab === "accounts" ? <AccountList /> : null}
      {tab === "tokens" ? <Tokens /> : null}
      {tab === "keys" ? <Keys /> : null}
      {tab === "ssh" ? <SshKeys /> : null}
      {tab === "registries" ? <Registries /> : null}
    </>
  );
}

function Form({ label, submit, children }: { label: string; submit: () => Promise<unknown>; children: ComponentChildren }) {
  return <form class="card" onSubmit={(e) => { e.preventDefault(); void submit(); }}><div class="two">{children}</div><button class="primary">{label}</button></form>;
}

function Text({ label, value, set, type, required }: { label: string; value: string; set: (text: string) => void; type?: "text" | "number" | "password"; required?: boolean }) {
  const given = { required: required ?? false, value, onInput: (e: { currentTarget: HTMLInputElement }) => set(e.currentTarget.value) };
  const input = type === "number" ? <input type="number" min="0" step="any" {...given} /> : type === "password" ? <input type="password" {...given} /> : <input type="text" {...given} />;
  return <Field label={label}>{input}</Field>;
}

const DAY = 86400;
const QUOTAS = [["containers", "acc.max_containers", 1], ["memory", "acc.memory_mib", 1048576], ["cpus", "create.cpus", 1], ["bandwidth", "acc.bandwidth_mbit", 1e6], ["disk", "acc.disk_bytes", 1073741824], ["images", "acc.images_bytes", 1073741824]] as const;

function AccountList() {
  const accounts = useLoaded(() => all<Schema["Account"]>("v1/accounts"), []);
  const name = useSignal("");
  const edited = useSignal<Schema["Account"] | null>(null);
  const path = (account: Schema["Account"]) => `v1/accounts/${encodeURIComponent(account.name)}`;
  const given = (label: string, value: number | null | undefined, shown: (value: number) => string) => (value === null || value === undefined ? "" : `${label} ${shown(value)}`);
  const quota = (q: Partial<Schema["AccountQuota"]> = {}) => [
    given(t("acc.max_containers"), q.containers, String), given(t("memory"), q.memory, bytes), given(t("cpu"), q.cpus, String),
    given(t("bandwidth"), q.bandwidth, bits), given(t("ov.disk"), q.disk, bytes), given(t("images"), q.images, bytes),
  ].filter(Boolean).join(" · ") || t("acc.no_bound");
  return (
    <>
      <Form label={t("create")} submit={() => act(`${t("create")} ${name.value}`, () => change("POST", "v1/accounts", { name: name.value })).then((made) => { if (made) { name.value = ""; accountsChanged.value += 1; } accounts.reload(); })}>
        <Text label={t("name")} value={name.value} set={(text) => { name.value = text; }} required />
      </Form>
      <Problem error={accounts.error} />
      <Table name={(a) => a.number} rows={accounts.value ?? []} columns={[
        { label: t("name"), cell: (a) => <>{a.name} {a.disabled ? <span class="chip">{t("acc.disabled")}</span> : null}</> },
        { label: t("acc.quota"), cell: (a) => quota(a.quota) }, { label: t("created"), cell: (a) => ago(a.created_at) },
        { label: "", cell: (a) => (
          <div class="row">
            <button onClick={() => { edited.value = a; }}>{t("acc.quota")}</button>
            <button onClick={() => void (a.disabled ? Promise.resolve(new Set()) : ask(t("acc.disable_ask", { name: a.name }))).then((yes) => { if (yes) void act(a.name, () => change("PATCH", path(a), { disabled: !a.disabled })).then(accounts.reload); })}>{t(a.disabled ? "acc.enable" : "acc.disable")}</button>
            <button class="danger" onClick={() => void ask(t("ask.remove", { name: a.name }), { typed: a.name }).then((yes) => { if (yes) void act(`${t("remove")} ${a.name}`, () => change("DELETE", path(a))).then(() => { accountsChanged.value += 1; accounts.reload(); }); })}>{t("remove")}</button>
          </div>
        ) },
      ]} />
      {edited.value ? <Quota account={edited.value} path={path(edited.value)} close={() => { edited.value = null; accounts.reload(); }} /> : null}
    </>
  );
}

function Quota({ account, path, close }: { account: Schema["Account"]; path: string; close: () => void }) {
  const form = useSignal<Record<string, string>>(Object.fromEntries(QUOTAS.map(([name, , unit]) => [name, typeof account.quota?.[name] === "number" ? String((account.quota[name] ?? 0) / unit) : ""])));
  const submit = async (event: Event) => {
    event.preventDefault();
    const done = await act(account.name, () => {
      const quota = Object.fromEntries(QUOTAS.map(([name, key, unit]) => {
        const text = form.value[name] ?? "";
        if (!text.trim()) return [name, null];
        const value = numeric(t(key), text, 0, 1e9);
        if (name === "containers" && !Number.isInteger(value)) throw new Error(t("wrong_number", { label: t(key), min: 0, max: 1e9, text }));
        return [name, name === "cpus" ? value : Math.round(value * unit)];
      }));
      return change("PATCH", path, { quota });
    });
    if (done) close();
  };
  return (
    <Dialog title={`${t("acc.quota")} · ${account.name}`} close={close}>
      <form onSubmit={(e) => void submit(e)}>
        <div class="two">{QUOTAS.map(([name, key]) => <Text key={name} type="number" label={`${t(key)} (${t("acc.no_bound")})`} value={form.value[name] ?? ""} set={(text) => { form.value = { ...form.value, [name]: text }; }} />)}</div>
        <div class="actions"><button type="button" onClick={close}>{t("cancel")}</button><button class="primary">{t("save")}</button></div>
      </form>
    </Dialog>
  );
}

function Tokens() {
  const admin = session.value?.role === "admin";
  const tokens = useLoaded(() => get<{ items: Schema["Token"][] }>(admin ? "v1/tokens?all=true" : "v1/tokens"), []);
  const accounts = useLoaded(() => (admin ? all<Schema["Account"]>("v1/accounts") : Promise.resolve([])), []);
  const f = useSignal({ name: "", role: "user", days: "", account: "" });
  const made = useSignal("");
  const submit = () => act(`${t("create")} ${f.value.name}`, async () => {
    const body: Record<string, unknown> = { name: f.value.name, role: f.value.role };
    if (f.value.days) body["expires_in"] = Math.round(numeric(t("acc.days"), f.value.days, 0.001, 36_500) * DAY);
    if (f.value.account) body["account"] = f.value.account;
    made.value = (await change<Schema["Token"]>("POST", "v1/tokens", body)).token ?? "";
    f.value = { name: "", role: "user", days: "", account: "" };
    tokens.reload();
  });
  return (
    <>
      <Form label={t("create")} submit={submit}>
        <Text label={t("name")} value={f.value.name} set={(name) => { f.value = { ...f.value, name }; }} required />
        {admin ? <Field label={t("acc.role")}><select value={f.value.role} onChange={(e) => { f.value = { ...f.value, role: e.currentTarget.value }; }}><option value="user">{t("acc.role.user")}</option><option value="admin">{t("acc.role.admin")}</option></select></Field> : null}
        <Text label={t("acc.days")} type="number" value={f.value.days} set={(days) => { f.value = { ...f.value, days }; }} />
        {admin ? (
          <Field label={t("usage.account")}><select value={f.value.account} onChange={(e) => { f.value = { ...f.value, account: e.currentTarget.value }; }}>
            <option value="">{t("acc.own")}</option>{(accounts.value ?? []).map((a) => <option key={a.name} value={a.name}>{a.name}</option>)}
          </select></Field>
        ) : null}
      </Form>
      {made.value ? <Secret label={t("login.token")} text={made.value} /> : null}
      <Problem error={tokens.error} />
      <Table name={(token) => token.number} rows={tokens.value?.items ?? []} columns={[
        { label: t("name"), cell: (token) => token.name }, { label: t("usage.account"), cell: (token) => token.account ?? "" }, { label: t("acc.role"), cell: (token) => t(token.role === "admin" ? "acc.role.admin" : "acc.role.user") },
        { label: t("created"), cell: (token) => ago(token.created_at) }, { label: t("acc.expires"), cell: (token) => token.expires_at ? time(token.expires_at) : t("acc.never") },
        { label: "", cell: (token) => <button class="danger" onClick={() => void ask(`${t("acc.revoke")} ${token.name}`).then((yes) => { if (yes) void act(`${t("acc.revoke")} ${token.name}`, () => change("DELETE", `v1/tokens/${token.number}`)).then(tokens.reload); })}>{t("acc.revoke")}</button> },
      ]} />
    </>
  );
}

function Rotate({ name, path, close, show }: { name: string; path: string; close: () => void; show: (key: Schema["AccessKey"]) => void }) {
  const seconds = useSignal(DAY);
  const submit = async (event: Event) => {
    event.preventDefault();
    await act(t("acc.rotate"), async () => { show(await change<Schema["AccessKey"]>("POST", `${path}/rotate`, { old_for: seconds.value })); });
    close();
  };
  return (
    <Dialog title={`${t("acc.rotate")}: ${name}`} close={close}>
      <form onSubmit={(e) => void submit(e)}>
        <Field label={t("acc.rotate_old")}>
          <select value={seconds.value} onChange={(e) => { seconds.value = Number(e.currentTarget.value); }}>
            <option value={0}>{t("acc.rotate_now")}</option><option value={3600}>{t("acc.rotate_hour")}</option>
            <option value={DAY}>{t("acc.rotate_day")}</option><option value={7 * DAY}>{t("acc.rotate_week")}</option>
          </select>
        </Field>
        <div class="actions"><button type="button" onClick={close}>{t("cancel")}</button><button class="primary">{t("acc.rotate")}</button></div>
      </form>
    </Dialog>
  );
}

function Keys() {
  const keys = useLoaded(() => get<{ items: Schema["AccessKey"][] }>("v1/keys"), []);
  const name = useSignal("");
  const made = useSignal("");
  const rotated = useSignal<Schema["AccessKey"] | null>(null);
  const path = (key: Schema["AccessKey"]) => `v1/keys/${encodeURIComponent(key.access_key)}`;
  const show = (key: Schema["AccessKey"]) => { made.value = `${key.access_key}\n${key.secret_key ?? ""}`; keys.reload(); };
  return (
    <>
      <Form label={t("create")} submit={() => act(`${t("create")} ${name.value}`, async () => show(await change<Schema["AccessKey"]>("POST", "v1/keys", { name: name.value })))}>
        <Text label={t("name")} value={name.value} set={(text) => { name.value = text; }} required />
      </Form>
      {made.value ? <Secret label={t("login.key")} text={made.value} /> : null}
      {rotated.value ? <Rotate name={rotated.value.name} path={path(rotated.value)} close={() => { rotated.value = null; }} show={show} /> : null}
      <Problem error={keys.error} />
      <Table name={(key) => key.number} rows={keys.value?.items ?? []} columns={[
        { label: t("name"), cell: (key) => <>{key.name} {key.disabled ? <span class="chip">{t("acc.disabled")}</span> : null}</> }, { label: t("login.access_key"), cell: (key) => <code>{key.access_key}</code> },
        { label: t("acc.last_used"), cell: (key) => ago(key.last_used_at) }, { label: t("acc.expires"), cell: (key) => key.expires_at ? time(key.expires_at) : t("acc.never") },
        { label: "", cell: (key) => (
          <div class="row">
            <button onClick={() => { rotated.value = key; }}>{t("acc.rotate")}</button>
            <button onClick={() => void act(key.name, () => change("POST", `${path(key)}/${key.disabled ? "enable" : "disable"}`)).then(keys.reload)}>{t(key.disabled ? "acc.enable" : "acc.disable")}</button>
            <button class="danger" onClick={() => void ask(t("ask.remove", { name: key.name })).then((yes) => { if (yes) void act(`${t("remove")} ${key.name}`, () => change("DELETE", path(key))).then(keys.reload); })}>{t("remove")}</button>
          </div>
        ) },
      ]} />
    </>
  );
}

function SshKeys() {
  const keys = useLoaded(() => get<{ items: Schema["SshKey"][] }>("v1/ssh-keys"), []);
  const f = useSignal({ name: "", key: "" });
  const made = useSignal("");
  return (
    <>
      <Form label={t("create")} submit={() => act(`${t("create")} ${f.value.name}`, async () => {
        const body = f.value.key ? { name: f.value.name, public_key: f.value.key } : { name: f.value.name };
        made.value = (await change<Schema["SshKey"]>("POST", "v1/ssh-keys", body)).private_key ?? "";
        f.value = { name: "", key: "" };
        keys.reload();
      })}>
        <Text label={t("name")} value={f.value.name} set={(name) => { f.value = { ...f.value, name }; }} required />
        <Text label={t("acc.public_key")} value={f.value.key} set={(key) => { f.value = { ...f.value, key }; }} />
      </Form>
      {made.value ? <Secret label={t("acc.ssh")} text={made.value} /> : null}
      <Problem error={keys.error} />
      <Table name={(key) => key.number} rows={keys.value?.items ?? []} columns={[
        { label: t("name"), cell: (key) => key.name }, { label: t("acc.fingerprint"), cell: (key) => <code>{key.fingerprint}</code> }, { label: t("created"), cell: (key) => ago(key.created_at) },
        { label: "", cell: (key) => <button class="danger" onClick={() => void ask(t("ask.remove", { name: key.name })).then((yes) => { if (yes) void act(`${t("remove")} ${key.name}`, () => change("DELETE", `v1/ssh-keys/${key.number}`)).then(keys.reload); })}>{t("remove")}</button> },
      ]} />
    </>
  );
}

function Registries() {
  const logins = useLoaded(() => get<{ items: Schema["RegistryLogin"][] }>("v1/registries"), []);
  const f = useSignal({ registry: "", username: "", password: "" });
  return (
    <>
      <Form label={t("save")} submit={() => act(f.value.registry, () => change("POST", "v1/registries", f.value)).then((done) => { if (done) f.value = { registry: "", username: "", password: "" }; logins.reload(); })}>
        <Text label={t("acc.registry")} value={f.value.registry} set={(registry) => { f.value = { ...f.value, registry }; }} required />
        <Text label={t("acc.username")} value={f.value.username} set={(username) => { f.value = { ...f.value, username }; }} required />
        <Text label={t("acc.password")} type="password" value={f.value.password} set={(password) => { f.value = { ...f.value, password }; }} required />
      </Form>
      <Problem error={logins.error} />
      <Table name={(login) => login.registry} rows={logins.value?.items ?? []} columns={[
        { label: t("acc.registry"), cell: (login) => login.registry }, { label: t("acc.username"), cell: (login) => login.username }, { label: t("created"), cell: (login) => ago(login.created_at) },
        { label: "", cell: (login) => <button class="danger" onClick={() => void ask(t("ask.remove", { name: login.registry })).then((yes) => { if (yes) void act(`${t("remove")} ${login.registry}`, () => change("DELETE", `v1/registries/${encodeURIComponent(login.registry)}`)).then(logins.reload); })}>{t("remove")}</button> },
      ]} />
    </>
  );
}
