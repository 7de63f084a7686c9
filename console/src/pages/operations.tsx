import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { change, get, type Schema } from "../api";
import { ago, sentence, t, time } from "../i18n";
import { watch } from "../live";
import { link, route } from "../router";
import { Table } from "../table";
import { act, once, Problem, State, useLoaded } from "../ui";

type Command = Schema["Command"];
type Page = { items: Command[]; next_cursor?: string | null };

/** What it came to, once it is over; its status before. */
const word = (of: { status: string; result?: string | null }) => of.result || of.status;

export function Operations() {
  const id = route.value.path[1];
  return id ? <One key={id} id={id} /> : <List />;
}

function List() {
  const commands = useLoaded(() => get<Page>("v1/commands?limit=200"), [], (kind) => kind.startsWith("command."));
  const older = useSignal<Page | null>(null);
  const newest = commands.value?.items ?? [];
  // What has moved out of the newest page since is in both, or in neither: then it is the older pages' to show.
  const known = new Set(newest.map((c) => c.id));
  const rows = [...newest, ...(older.value?.items ?? []).filter((c) => !known.has(c.id))];
  const cursor = older.value ? older.value.next_cursor : commands.value?.next_cursor;
  const readOlder = () => once(t("more"), async () => {
    const page = await get<Page>(`v1/commands?${new URLSearchParams({ limit: "200", cursor: cursor ?? "" }).toString()}`);
    older.value = { ...page, items: [...(older.value?.items ?? newest), ...page.items] };
  });
  return (
    <>
      <div class="head"><h1>{t("operations")}</h1></div>
      <Problem error={commands.error} />
      {commands.value?.items.length === 0 ? <p class="card dim">{t("empty.operations")}</p> : (
        <Table name={(c) => c.id} rows={rows} columns={[
          { label: t("name"), cell: (c) => <a href={link("operations", c.id)}>{c.name}</a> },
          { label: t("ops.target"), cell: (c) => c.target },
          { label: t("ops.status"), cell: (c) => <State of={word(c)} /> },
          { label: t("ops.begun"), cell: (c) => <span title={time(c.created_at)}>{ago(c.created_at)}</span> },
          { label: t("ops.ended"), cell: (c) => time(c.ended_at) },
          { label: t("message"), cell: (c) => sentence(c.message_parts, c.message) },
        ]} />
      )}
      {cursor ? <button onClick={() => void readOlder()}>{t("more")}</button> : null}
    </>
  );
}

function One({ id }: { id: string }) {
  const command = useSignal<Command | null>(null);
  const error = useSignal<unknown>(undefined);
  useEffect(() => watch(() => ({ watch: "command", command: id }), (message) => {
    if (message.command) { command.value = message.command; error.value = undefined; }
    if (message.error) error.value = message.error;
  }), [id]);
  const c = command.value;
  if (!c) return error.value === undefined ? <p class="dim">{t("loading")}</p> : <Problem error={error.value} />;
  const steps = c.activities ?? [];
  return (
    <>
      <div class="head">
        <h1><a href={link("operations")}>{t("operations")}</a> / {c.name}</h1><State of={word(c)} /><span class="dim">{c.target} · {time(c.created_at)}</span><span class="grow" />
        {c.ended_at ? null : <button class="danger" onClick={() => void act(t("cancel"), () => change("POST", `v1/commands/${encodeURIComponent(id)}/cancel`))}>{t("cancel")}</button>}
      </div>
      {/* Of a container that did not come up it has the last lines. */}
      {c.message ? <p class={`${c.result && c.result !== "success" ? "card error" : "card"} said`}>{sentence(c.message_parts, c.message)}</p> : null}
      {c.ended_at ? null : <p class="dim" role="status">{t("ops.follow")}</p>}
      <h2>{t("ops.steps")}</h2>
      <Table name={(step) => step.number} rows={steps} columns={[
        { label: t("name"), cell: (step) => step.name },
        { label: t("containers"), cell: (step) => step.container ?? "" },
        { label: t("ops.status"), cell: (step) => <State of={word(step)} /> },
        { label: t("ops.begun"), cell: (step) => time(step.created_at) },
        { label: t("ops.ended"), cell: (step) => time(step.ended_at) },
        { label: t("message"), cell: (step) => <span class="said">{sentence(step.message_parts, step.message)}</span> },
      ]} />
    </>
  );
}
