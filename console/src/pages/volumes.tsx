import { useSignal } from "@preact/signals";
import { all, change, send, type Schema } from "../api";
import { ago, said, t } from "../i18n";
import { Table } from "../table";
import { act, ask, once, Problem, save, toast, useLoaded } from "../ui";

export function Volumes() {
  const volumes = useLoaded(() => all<Schema["Volume"]>("v1/volumes"), [], (kind) => kind.startsWith("volume.") || kind.startsWith("container."));
  const name = useSignal("");
  const remove = async (volume: Schema["Volume"]) => {
    if (await ask(t("ask.remove", { name: volume.name }), { typed: volume.name })) await act(`${t("remove")} ${volume.name}`, () => change("DELETE", `v1/volumes/${encodeURIComponent(volume.name)}`)).then(volumes.reload);
  };
  const prune = async () => {
    const unused = (volumes.value ?? []).filter((volume) => volume.used_by.length === 0).map((volume) => volume.name);
    if (!unused.length || !(await ask(t("volumes.prune_ask"), { details: unused, typed: t("volumes.prune_word") }))) return;
    await once(t("volumes.prune"), async () => {
      const done = await change<Schema["Pruned"]>("POST", "v1/volumes/prune", {});
      toast(t("volumes.pruned", { count: done.removed.length }));
    });
    volumes.reload();
  };
  return (
    <>
      <div class="head"><h1>{t("volumes")}</h1><span class="grow" />
        <form class="row" onSubmit={(e) => { e.preventDefault(); void act(`${t("create")} ${name.value}`, () => change("POST", "v1/volumes", { name: name.value })).then((made) => { if (made) name.value = ""; volumes.reload(); }); }}>
          <input required aria-label={t("name")} placeholder={t("name")} value={name.value} onInput={(e) => { name.value = e.currentTarget.value; }} /><button class="primary">{t("create")}</button>
        </form>
        <button onClick={() => void prune()}>{t("volumes.prune")}</button>
      </div>
      <Problem error={volumes.error} />
      {volumes.value?.length === 0 ? <p class="card dim">{t("empty.volumes")}</p> : (
        <Table name={(volume) => volume.name} rows={volumes.value ?? []} columns={[
          { label: t("name"), cell: (volume) => volume.name },
          { label: t("volumes.used_by"), cell: (volume) => volume.used_by.join(", ") || t("none") },
          { label: t("created"), cell: (volume) => ago(volume.created_at) },
          { label: "", cell: (volume) => (
            <div class="row">
              <button onClick={() => void send("GET", `v1/volumes/${encodeURIComponent(volume.name)}/archive`).then(async (a) => save(await a.blob(), `${volume.name}.tar`), (e: unknown) => toast(said(e), true))}>{t("download")}</button>
              <button class="danger" onClick={() => void remove(volume)}>{t("remove")}</button>
            </div>
          ) },
        ]} />
      )}
    </>
  );
}
