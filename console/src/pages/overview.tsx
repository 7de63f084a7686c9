import { get, type Schema } from "../api";
import { ago, bytes, number, sentence, t } from "../i18n";
import { link } from "../router";
import { Problem, State, useLoaded } from "../ui";
import { Events } from "./events";

type Summary = Schema["ContainerSummary"];

/** The word for a container that shows more than its state: why it needs somebody. */
export function condition(c: Pick<Summary, "state" | "health" | "next_start" | "oom_killed">): string {
  if (c.next_start) return "restarting";
  if (c.state === "running" && c.health) return c.health;
  if (c.state === "exited" && c.oom_killed) return "oom";
  return c.state;
}

/** An end that nobody asked for: not 0, and not by the signals of a stop. */
const failed = (code: number | null | undefined) => Boolean(code) && ![130, 137, 143].includes(code ?? 0);

async function read() {
  const [states, unhealthy, host, open] = await Promise.all([
    get<Schema["ContainerSummaryList"]>("v1/containers/summary?limit=1000&descending=true"),
    get<Schema["ContainerSummaryList"]>("v1/containers/summary?health=unhealthy&limit=200&descending=true"),
    get<Schema["Host"]>("v1/host"),
    get<{ items: Schema["Command"][] }>("v1/commands?open=true&limit=20"),
  ]);
  const newest = new Set(states.items.map((c) => c.id));
  const looked = [...states.items, ...unhealthy.items.filter((c) => !newest.has(c.id))];
  const attention = looked.filter((c) => ["unhealthy", "restarting", "oom"].includes(condition(c)) || (c.state === "exited" && (c.error || failed(c.exit_code))));
  return { states, host, open: open.items, attention };
}

export function Overview() {
  const { value, error } = useLoaded(read, [], (kind) => kind.startsWith("container.") || kind.startsWith("command."), 1500);
  // What lies on the disk is added up: it is read when the page is opened.
  const sizes = useLoaded(() => get<Schema["DiskUse"]>("v1/disk"), []);
  if (!value) return error === undefined ? <p class="dim">{t("loading")}</p> : <Problem error={error} />;
  const { states, host, open, attention } = value;
  const disk = sizes.value;
  return (
    <>
      <div class="head"><h1>{t("overview")}</h1></div>
      <div class="cards">
        {["running", "exited", "paused", "created"].map((state) => (
          <a key={state} class="card" href={`${link("containers")}?state=${state}`} style={{ color: "inherit" }}>
            <div class="big">{number(states.states[state] ?? 0)}</div><State of={state} />
          </a>
        ))}
        <div class="card">
          <div class="dim">{t("ov.host")}</div>
          <strong>{host.name}</strong>
          <div class="small dim">{host.os} · {host.kernel} · {host.architecture} · {t("about.version", { version: host.berth })}</div>
          <div>{t("cpu")}: {host.cpus} · {t("ov.load")}: {number(host.load, 2)}</div>
          <div>{t("memory")}: {bytes(host.memory - host.memory_available)} / {bytes(host.memory)}</div>
        </div>
        <div class="card">
          <div class="dim">{t("ov.disk")}</div>
          <div>{t("images")}: {bytes(disk?.images.size)}</div>
          <div>{t("containers")}: {bytes(disk?.containers.size)}</div>
          <div>{t("volumes")}: {bytes(disk?.volumes.size)}</div>
          <div class="dim">{bytes(disk?.free)} {t("ov.free")}</div>
        </div>
      </div>
      {host.warnings?.length ? <section class="card"><h2>{t("ov.warnings")}</h2><ul>{host.warnings.map((text) => <li key={text}>{text}</li>)}</ul></section> : null}
      <section class="card">
        <h2>{t("ov.attention")}</h2>
        {attention.length === 0 ? <p class="dim">{t("ov.fine")}</p> : (
          <ul>{attention.slice(0, 50).map((c) => <li key={c.id}><a href={link("containers", c.id)}>{c.name}</a> <State of={condition(c)} /> <span class="dim">{c.error ? sentence(c.error_parts, c.error) : (failed(c.exit_code) ? `${t("exit_code")} ${c.exit_code}` : "")}</span></li>)}</ul>
        )}
      </section>
      {open.length ? (
        <section class="card"><h2>{t("ops.open")}</h2>
          <ul>{open.map((o) => <li key={o.id}><a href={link("operations", o.id)}>{o.name}</a> {o.target} <State of={o.status} /> <span class="dim">{ago(o.created_at)}</span></li>)}</ul>
        </section>
      ) : null}
      <section class="card"><h2>{t("ov.events")}</h2><Events most={12} /></section>
    </>
  );
}

