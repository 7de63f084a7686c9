import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get, type Schema } from "../api";
import { t, time } from "../i18n";
import { onEvent } from "../live";
import { Problem } from "../ui";

type Event = Schema["Event"];

/** What happened lately, of one subject or of all, newest first, as it comes. */
export function Events({ subject, most }: { subject?: string; most: number }) {
  const list = useSignal<Event[]>([]);
  const error = useSignal<unknown>(undefined);
  useEffect(() => {
    list.value = [];
    const add = (all: Event[]) => {
      const wanted = all.filter((event) => !subject || event.subject === subject);
      const known = new Set(list.value.map((event) => event.number));
      const merged = [...wanted.filter((event) => !known.has(event.number)), ...list.value];
      list.value = merged.sort((a, b) => b.number - a.number).slice(0, most);
    };
    const query = new URLSearchParams({ limit: String(subject ? 200 : most) });
    if (subject) query.set("subject", subject);
    get<{ items: Event[] }>(`v1/events/recent?${query.toString()}`).then((found) => add(found.items), (e: unknown) => { error.value = e; });
    return onEvent((event) => add([event]));
  }, [subject]);
  if (error.value !== undefined) return <Problem error={error.value} />;
  if (list.value.length === 0) return <p class="dim">{t("empty.list")}</p>;
  return (
    <div class="scroll" tabIndex={0}>
      <table>
        <thead><tr><th scope="col">{t("time")}</th><th scope="col">{t("kind")}</th>{subject ? null : <th scope="col">{t("name")}</th>}<th scope="col">{t("detail")}</th></tr></thead>
        <tbody>
          {list.value.map((event) => (
            <tr key={event.number}>
              <td style={{ whiteSpace: "nowrap" }}>{time(event.time)}</td><td>{event.kind}</td>
              {subject ? null : <td>{String((event.detail as Record<string, unknown> | null)?.["name"] ?? event.subject.slice(0, 16))}</td>}
              <td class="small"><code>{Object.entries((event.detail ?? {}) as Record<string, unknown>).filter(([k, v]) => v !== null && v !== false && k !== "name").map(([k, v]) => `${k}=${typeof v === "string" ? v : JSON.stringify(v)}`).join(" ")}</code></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
