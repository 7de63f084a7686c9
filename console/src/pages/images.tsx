import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { all, change, Failure, get, send, type Problem as Fault, type Schema } from "../api";
import { ago, bytes, said, t } from "../i18n";
import { watch } from "../live";
import { Table } from "../table";
import { act, ask, Bar, Dialog, Field, once, Problem, State, toast, useLoaded } from "../ui";

type Image = Schema["Image"];
type Pull = Schema["Pull"];

function PullRow({ id, first, over }: { id: string; first: Pull; over: () => void }) {
  const pull = useSignal(first);
  useEffect(() => {
    if (first.ended_at) return undefined;
    return watch(() => ({ watch: "pull", pull: id }), (message) => {
      if (!message.pull) return;
      pull.value = message.pull;
      if (message.pull.ended_at) over();
    });
  }, [id]);
  const p = pull.value;
  return (
    <div class="card">
      <div class="row"><strong>{p.image}</strong> <State of={p.state} /> <span class="dim">{ago(p.begun_at)}</span>{p.ended_at ? null : <><span class="grow" /><button onClick={() => void act(`${t("cancel")} ${p.image}`, () => change("POST", `v1/pulls/${id}/cancel`))}>{t("cancel")}</button></>}</div>
      {p.error ? <p class="error">{said(p.error)}</p> : null}
      {p.ended_at ? null : p.layers.map((layer) => (
        <div key={layer.digest} class="row small">
          <code style={{ width: "7rem" }}>{layer.digest.replace("sha256:", "").slice(0, 12)}</code>
          <span style={{ flex: 1 }}><Bar used={layer.status === "done" || layer.status === "exists" ? 1 : layer.current} of={layer.status === "done" || layer.status === "exists" ? 1 : layer.total} /></span>
          <span class="dim" style={{ width: "12rem" }}>{t(`layer.${layer.status}`)} {bytes(layer.current)} / {bytes(layer.total)}</span>
        </div>
      ))}
    </div>
  );
}

export function Images() {
  const images = useLoaded(() => all<Image>("v1/images"), [], (kind) => kind.startsWith("image."));
  const pulls = useLoaded(() => get<{ items: Pull[] }>("v1/pulls"), []);
  const name = useSignal("");
  const filter = useSignal("");
  const over = useSignal(false);
  const shown = useSignal<Image | null>(null);
  const label = (image: Image) => image.names.join(", ") || t("images.unnamed");
  const reference = (image: Image) => image.names[0] ?? image.digest;
  /** It with all its names: by its digest. */
  const removeAll = (image: Image) => change("DELETE", `v1/images/${encodeURIComponent(image.digest)}`);
  useEffect(() => {
    // A file that misses the box must not take the page away.
    const stop = (event: DragEvent) => event.preventDefault();
    addEventListener("dragover", stop);
    addEventListener("drop", stop);
    return () => { removeEventListener("dragover", stop); removeEventListener("drop", stop); };
  }, []);
  const load = (file: File | undefined) => {
    if (!file) return;
    void act(`${t("images.load")} ${file.name}`, () => send("POST", "v1/images", file, "application/x-tar")).then(images.reload);
  };
  const prune = async () => {
    let found: Schema["Pruned"];
    try {
      found = await change<Schema["Pruned"]>("POST", "v1/images/prune", { all: true, dry_run: true });
    } catch (failed) { toast(said(failed), true); return; }
    // One without a name is told by its digest.
    const isDigest = (each: string) => /^sha256:[0-9a-f]{64}$/.test(each);
    const unnamed = found.removed.filter(isDigest).map((digest) => digest.slice(0, 19));
    const named = found.removed.filter((each) => !isDigest(each));
    const details = [t("images.prune_these", { unnamed: unnamed.join(", ") || t("none"), named: named.join(", ") || t("none") })];
    const chosen = await ask(t("images.prune_ask"), { options: [["all", t("images.prune_all")]], details });
    if (!chosen) return;
    try {
      const done = await change<Schema["Pruned"]>("POST", "v1/images/prune", { all: chosen.has("all") });
      toast(t("images.freed", { size: bytes(done.freed) }));
    } catch (failed) { toast(said(failed), true); }
    images.reload();
  };
  const pull = (event: Event) => {
    event.preventDefault();
    const image = name.value.trim();
    void once(image, async () => { await change<Pull>("POST", "v1/pulls", { image }); name.value = ""; pulls.reload(); });
  };
  const list = (images.value ?? []).filter((image) => `${label(image)} ${image.digest}`.toLowerCase().includes(filter.value.trim().toLowerCase()));
  return (
    <>
      <div class="head">
        <h1>{t("images")}</h1>
        <input type="search" aria-label={t("filter")} placeholder={`${t("filter")}  ( / )`} value={filter.value} onInput={(e) => { filter.value = e.currentTarget.value; }} />
        <span class="grow" />
        <button onClick={() => void prune()}>{t("images.prune")}</button>
      </div>
      <div class="two">
        <form class="card" onSubmit={pull}>
          <Field label={t("images.pull_name")}><input required value={name.value} onInput={(e) => { name.value = e.currentTarget.value; }} /></Field>
          <button class="primary">{t("images.pull")}</button>
        </form>
        <div class={over.value ? "card drop over" : "card drop"} onDragOver={(e) => { e.preventDefault(); over.value = true; }} onDragLeave={() => { over.value = false; }}
          onDrop={(e) => { e.preventDefault(); over.value = false; load(e.dataTransfer?.files[0]); }}>
          <p class="dim">{t("images.drop")}</p>
          <input type="file" aria-label={t("images.load")} onChange={(e) => { load(e.currentTarget.files?.[0]); e.currentTarget.value = ""; }} />
        </div>
      </div>
      {pulls.value?.items.length ? <section><h2>{t("images.pulls")}</h2>{pulls.value.items.slice(0, 8).map((p) => <PullRow key={p.id} id={p.id} first={p} over={images.reload} />)}</section> : null}
      <Problem error={images.error} />
      {images.value && list.length === 0 ? <p class="card dim">{t(filter.value ? "empty.list" : "empty.images")}</p> : (
        <Table name={(image) => image.digest} rows={list} columns={[
          { label: t("name"), cell: (image) => <>{label(image)} {image.official ? <span class="chip">{t("images.official")}</span> : null}</> },
          { label: t("id"), cell: (image) => <code>{image.digest.replace("sha256:", "").slice(0, 12)}</code> },
          { label: t("size"), num: true, cell: (image) => bytes(image.size) },
          { label: t("created"), cell: (image) => ago(image.imported_at) },
          { label: t("images.used"), cell: (image) => ago(image.used_at) },
          { label: "", cell: (image) => (
            <div class="row">
              <button onClick={() => { shown.value = image; }}>{t("detail")}</button>
              <button class="danger" onClick={() => void ask(t("ask.remove", { name: label(image) })).then((yes) => { if (yes) void act(`${t("remove")} ${label(image)}`, () => removeAll(image)).then(images.reload); })}>{t("remove")}</button>
            </div>
          ) },
        ]} />
      )}
      {shown.value ? <Detail image={shown.value} reference={reference(shown.value)} close={() => { shown.value = null; images.reload(); }} /> : null}
    </>
  );
}

function Detail({ image, reference, close }: { image: Image; reference: string; close: () => void }) {
  const history = useLoaded(() => get<{ items: { created_by?: string; size?: number; comment?: string }[] }>(`v1/images/history?${new URLSearchParams({ image: reference }).toString()}`), [reference]);
  const tag = useSignal("");
  const push = async () => {
    await act(`${t("images.push")} ${reference}`, async () => {
      const answer = await send("POST", "v1/images/push", JSON.stringify({ image: reference }), "application/json");
      const last = JSON.parse((await answer.text()).trim().split("\n").at(-1) ?? "{}") as { error?: Fault };
      if (last.error) throw new Failure(last.error.status, last.error.code, last.error.detail, "", last.error.detail_parts);
    });
  };
  return (
    <Dialog title={reference} close={close}>
      <dl><dt>{t("id")}</dt><dd><code>{image.digest}</code></dd><dt>{t("size")}</dt><dd>{bytes(image.size)}</dd><dt>{t("name")}</dt><dd>{image.names.join(", ")}</dd></dl>
      <h2>{t("images.history")}</h2>
      <Problem error={history.error} />
      <div class="scroll" tabIndex={0}><table><tbody>{(history.value?.items ?? []).map((each, index) => <tr key={index}><td class="num">{bytes(each.size ?? 0)}</td><td class="small"><code>{each.created_by || each.comment || ""}</code></td></tr>)}</tbody></table></div>
      <form class="row" onSubmit={(e) => { e.preventDefault(); void act(t("images.tag"), () => change("POST", `v1/images/tag?${new URLSearchParams({ image: reference, name: tag.value }).toString()}`)).then((done) => { if (done) close(); }); }}>
        <input required aria-label={t("images.tag_as")} placeholder={t("images.tag_as")} value={tag.value} onInput={(e) => { tag.value = e.currentTarget.value; }} /><button>{t("images.tag")}</button>
      </form>
      <div class="actions"><button onClick={() => void push()}>{t("images.push")}</button><button onClick={close}>{t("close")}</button></div>
    </Dialog>
  );
}
