import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { account, all, change, Failure, type Schema } from "../api";
import { said, t } from "../i18n";
import { go } from "../router";
import { copy, Dialog, Field, numeric, useLoaded } from "../ui";

const quote = (text: string) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** Words as a shell reads them, with quotes; an error for a quote that is not closed. */
export function words(text: string): string[] {
  if (/["']/.test(text.replace(/"(?:[^"\\]|\\.)*"|'[^']*'|\\./g, ""))) throw new Error(t("create.open_quote"));
  const found: string[] = [];
  const part = /"((?:[^"\\]|\\.)*)"|'([^']*)'|(\\.|[^\s"'\\])/g;
  for (const word of text.match(/(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'\\])+/g) ?? []) {
    found.push([...word.matchAll(part)].map((m) => (m[1] !== undefined ? m[1].replace(/\\(.)/g, "$1") : m[2] ?? (m[3] ?? "").replace(/^\\(.)/, "$1"))).join(""));
  }
  return found;
}

const newKey = () => `console-${Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("")}`;

const lines = (text: string) => text.split("\n").filter((each) => each.trim());
/** The command as far as it is readable, for what is shown while it is typed. */
const typedWords = (text: string) => { try { return words(text); } catch { return [text]; } };

export function Create({ close }: { close: () => void }) {
  const form = useSignal({ image: "", name: "", command: "", ports: "", env: "", mounts: "", memory: "", cpus: "", ingress: "", egress: "", restart: "unless-stopped", start: true });
  const error = useSignal("");
  const waiting = useSignal(false);
  // One key until the server has refused it: however often the form is sent, one container is made.
  const key = useRef(newKey());
  const images = useLoaded(() => all<Schema["Image"]>("v1/images"), []);
  const set = (change: Partial<typeof form.value>) => { form.value = { ...form.value, ...change }; };
  const f = form.value;
  const line = f.start ? ["berth", "run", "-d"] : ["berth", "create"];
  if (account.value) line.splice(1, 0, "--for-account", quote(account.value));
  if (f.name) line.push("--name", quote(f.name));
  for (const port of lines(f.ports)) line.push("-p", quote(port));
  for (const env of lines(f.env)) line.push("-e", quote(env));
  for (const mount of lines(f.mounts)) line.push("-v", quote(mount));
  if (f.memory) line.push("-m", `${f.memory}m`);
  if (f.cpus) line.push("--cpus", f.cpus);
  if (f.ingress) line.push("--ingress", `${f.ingress}mbit`);
  if (f.egress) line.push("--egress", `${f.egress}mbit`);
  if (f.restart !== "no") line.push("--restart", f.restart);
  line.push(quote(f.image || "IMAGE"), ...typedWords(f.command).map(quote));

  const submit = async (event: Event) => {
    event.preventDefault();
    if (waiting.value) return;
    const wrong = (text: string) => { error.value = t("create.wrong_line", { text }); };
    const ports: Schema["Port"][] = [];
    for (const text of lines(f.ports)) {
      const match = /^(?:(\d+\.\d+\.\d+\.\d+):)?(?:(\d+):)?(\d+)(?:\/(tcp|udp))?$/.exec(text.trim());
      if (!match || [match[2] ?? "1", match[3] ?? ""].some((port) => Number(port) < 1 || Number(port) > 65_535)) return wrong(text);
      ports.push({ container_port: Number(match[3]), protocol: match[4] ?? "tcp", ...(match[2] ? { host_port: Number(match[2]) } : {}), ...(match[1] ? { host_ip: match[1] } : {}) } as Schema["Port"]);
    }
    const mounts: Schema["ContainerMount"][] = [];
    for (const text of lines(f.mounts)) {
      const match = /^([^:]+):(\/[^:]*)(?::(ro|rw))?$/.exec(text.trim());
      if (!match) return wrong(text);
      mounts.push({ type: match[1]?.startsWith("/") ? "bind" : "volume", source: match[1] ?? null, target: match[2] ?? "", read_only: match[3] === "ro" } as Schema["ContainerMount"]);
    }
    const bad = lines(f.env).find((text) => !text.includes("="));
    if (bad) return wrong(bad);
    const body: Record<string, unknown> = { image: f.image.trim(), env: lines(f.env), ports, mounts, restart: f.restart, start: f.start };
    try {
      if (f.name) body["name"] = f.name;
      if (f.command.trim()) body["command"] = words(f.command);
      if (f.memory) body["memory"] = Math.round(numeric(t("create.memory"), f.memory, 4, 2 ** 30) * 1048576);
      if (f.cpus) body["cpus"] = numeric(t("create.cpus"), f.cpus, 0.01, 4096);
      if (f.ingress) body["ingress"] = Math.round(numeric(t("create.ingress"), f.ingress, 0.1, 10_000) * 1e6);
      if (f.egress) body["egress"] = Math.round(numeric(t("create.egress"), f.egress, 0.1, 10_000) * 1e6);
    } catch (failed) {
      error.value = said(failed);
      return;
    }
    waiting.value = true;
    try {
      const made = await change<Schema["Container"]>("POST", "v1/containers", body, key.current);
      close();
      go("containers", made.id);
    } catch (failed) {
      error.value = said(failed);
      // One that is under way, or was not looked at, may be sent again; what was refused is another request next time.
      const undecided = failed instanceof Failure && (failed.status >= 500 || failed.status === 0 || failed.status === 429 || failed.code === "under_way");
      if (!undecided) key.current = newKey();
    } finally {
      waiting.value = false;
    }
  };
  const text = (name: "image" | "name" | "command" | "memory" | "cpus" | "ingress" | "egress", extra: Record<string, unknown> = {}) => (
    <Field label={t(`create.${name}`)}><input name={name} value={f[name]} onInput={(e) => set({ [name]: e.currentTarget.value })} {...extra} /></Field>
  );
  const area = (name: "ports" | "env" | "mounts") => (
    <Field label={t(`create.${name}`)}><textarea name={name} style={{ minHeight: "4.5rem" }} value={f[name]} onInput={(e) => set({ [name]: e.currentTarget.value })} /></Field>
  );
  const decimal = { inputMode: "decimal" };
  return (
    <Dialog title={t("create.title")} close={close}>
      <form onSubmit={(e) => void submit(e)}>
        <div class="two">{text("image", { required: true, list: "images-known" })}{text("name")}</div>
        <datalist id="images-known">{(images.value ?? []).flatMap((image) => image.names).map((name) => <option key={name} value={name} />)}</datalist>
        {text("command")}
        <div class="two">{area("ports")}{area("env")}{area("mounts")}
          <Field label={t("restart_policy")}>
            <select value={f.restart} onChange={(e) => set({ restart: e.currentTarget.value })}>{["unless-stopped", "always", "on-failure", "no"].map((each) => <option key={each}>{each}</option>)}</select>
          </Field>
          {text("memory", decimal)}{text("cpus", decimal)}{text("ingress", decimal)}{text("egress", decimal)}
        </div>
        <p><label><input type="checkbox" checked={f.start} onChange={(e) => set({ start: e.currentTarget.checked })} /> {t("start")}</label></p>
        <h2>{t("create.line")}</h2>
        <pre>{line.join(" ")}</pre>
        {error.value ? <p class="error" role="alert">{error.value}</p> : null}
        <div class="actions">
          <button type="button" onClick={() => void copy(line.join(" "))}>{t("copy")}</button>
          <button type="button" onClick={close}>{t("cancel")}</button>
          <button class="primary" disabled={waiting.value}>{t(f.start ? "create.start" : "create")}</button>
        </div>
      </form>
    </Dialog>
  );
}
