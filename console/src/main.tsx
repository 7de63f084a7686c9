// The console: its frame, its pages, its keys.
import { useSignal } from "@preact/signals";
import { render, type ComponentType } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { account, accountsChanged, actFor, all, get, interrupted, logOut, readSession, session, type Schema } from "./api";
import { language, said, t, theme, type Key } from "./i18n";
import { online } from "./live";
import { Login, LoginAgain } from "./pages/login";
import { Overview } from "./pages/overview";
import { Containers } from "./pages/containers";
import { Container } from "./pages/container";
import { Images } from "./pages/images";
import { Volumes } from "./pages/volumes";
import { Services } from "./pages/services";
import { Operations } from "./pages/operations";
import { Hosts } from "./pages/hosts";
import { Bandwidth, Usage } from "./pages/bandwidth";
import { Accounts } from "./pages/accounts";
import { About, Audit, Doctor, Settings } from "./pages/settings";
import { go, link, route } from "./router";
import { Dialog, Question, Toasts, toast } from "./ui";

const parts: [Key, [string, Key][]][] = [
  ["nav.run", [["", "overview"], ["containers", "containers"], ["images", "images"], ["volumes", "volumes"], ["services", "services"]]],
  ["nav.watch", [["operations", "operations"], ["hosts", "hosts"], ["bandwidth", "bandwidth"], ["usage", "usage"], ["audit", "audit"]]],
  ["nav.manage", [["accounts", "accounts"], ["doctor", "doctor"], ["settings", "settings"], ["about", "about"]]],
];
const pages: Record<string, ComponentType> = {
  "": Overview, containers: Containers, images: Images, volumes: Volumes, services: Services, operations: Operations, hosts: Hosts,
  bandwidth: Bandwidth, usage: Usage, accounts: Accounts, audit: Audit, settings: Settings, about: About, doctor: Doctor,
};

function Page() {
  const [first = "", second] = route.value.path;
  if (first === "containers" && second) return <Container key={second} />;
  const Found = pages[first];
  return Found ? <Found /> : <><div class="head"><h1>{t("page_unknown")}</h1></div><a href={link()}>{t("overview")}</a></>;
}

function Palette({ close }: { close: () => void }) {
  const text = useSignal("");
  const at = useSignal(0);
  const found = useSignal<Schema["ContainerSummary"][]>([]);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => { input.current?.focus(); }, []);
  useEffect(() => {
    const query = new URLSearchParams({ text: text.value, limit: "12", sort: "name" });
    let live = true;
    get<Schema["ContainerSummaryList"]>(`v1/containers/summary?${query.toString()}`).then((list) => { if (live) found.value = list.items; }, () => undefined);
    return () => { live = false; };
  }, [text.value]);
  const wanted = text.value.toLowerCase();
  const entries = [
    ...parts.flatMap(([, list]) => list).filter(([, key]) => t(key).toLowerCase().includes(wanted)).map(([path, key]) => ({ label: t(key), hash: link(...(path ? [path] : [])) })),
    ...found.value.map((each) => ({ label: `${each.name} · ${each.image}`, hash: link("containers", each.id) })),
  ];
  const chosen = Math.min(at.value, Math.max(0, entries.length - 1));
  const take = (hash: string) => { location.hash = hash; close(); };
  return (
    <div class="palette" role="dialog" aria-label={t("palette")}>
      <input ref={input} value={text.value} placeholder={t("palette")} aria-label={t("palette")}
        onInput={(e) => { text.value = e.currentTarget.value; at.value = 0; }}
        onKeyDown={(e) => {
          if (e.key === "ArrowDown") { at.value = Math.min(chosen + 1, entries.length - 1); e.preventDefault(); }
          if (e.key === "ArrowUp") { at.value = Math.max(chosen - 1, 0); e.preventDefault(); }
          const entry = entries[chosen];
          if (e.key === "Enter" && entry) take(entry.hash);
          if (e.key === "Escape") close();
        }} />
      <div role="listbox" aria-label={t("palette")}>
        {entries.slice(0, 20).map((each, index) => (
          <div key={each.hash} role="option" aria-selected={index === chosen} onClick={() => take(each.hash)}>{each.label}</div>
        ))}
        {entries.length === 0 ? <p class="dim">{t("palette.none")}</p> : null}
      </div>
    </div>
  );
}

function Help({ close }: { close: () => void }) {
  const rows: [string, Key][] = [["/", "help.filter"], ["Ctrl K", "help.palette"], ["g c · g i · g s · g o", "help.go"], ["?", "help.help"], ["Esc", "help.close"]];
  return (
    <Dialog title={t("help")} close={close}>
      <dl>{rows.map(([keys, key]) => [<dt><kbd>{keys}</kbd></dt>, <dd>{t(key)}</dd>])}</dl>
      <div class="actions"><button onClick={close}>{t("close")}</button></div>
    </Dialog>
  );
}

function AccountSelect() {
  const names = useSignal<string[]>([]);
  useEffect(() => {
    if (session.value?.role === "admin") all<Schema["Account"]>("v1/accounts").then((list) => {
      names.value = list.map((each) => each.name);
      const lost = account.value;
      if (lost && !names.value.includes(lost)) { actFor(""); toast(t("account_gone", { name: lost }), true); }
    }, () => undefined);
  }, [session.value?.role, account.value, accountsChanged.value]);
  if (session.value?.role !== "admin" || names.value.length < 2) return <span class="dim">{session.value?.account}</span>;
  return (
    <label class="dim">{t("act_for")}{" "}
      <select value={account.value} onChange={(e) => { actFor(e.currentTarget.value); }}>
        <option value="">{session.value.account} ({t("own_account")})</option>
        {names.value.filter((name) => name !== session.value?.account).map((name) => <option key={name} value={name}>{name}</option>)}
      </select>
    </label>
  );
}

function Frame() {
  const palette = useSignal(false);
  const help = useSignal(false);
  const menu = useSignal(false);
  const lead = useRef(0);
  useEffect(() => {
    const key = (event: KeyboardEvent) => {
      const dialog = document.querySelector("dialog[open]");
      if ((event.ctrlKey || event.metaKey) && event.key === "k") { event.preventDefault(); if (!dialog) palette.value = !palette.value; return; }
      if (event.key === "Escape" && !dialog) { palette.value = false; menu.value = false; }
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, textarea, select, .terminal, dialog")) return;
      if (event.key === "/") {
        const filter = document.querySelector<HTMLInputElement>('main input[type="search"]');
        if (filter) { event.preventDefault(); filter.focus(); }
      } else if (event.key === "?") help.value = true;
      else if (event.key === "g") lead.current = Date.now();
      else if (Date.now() - lead.current < 1500) {
        const to = ({ c: "containers", i: "images", s: "services", o: "operations", v: "volumes", h: "hosts", b: "bandwidth" } as Record<string, string>)[event.key];
        lead.current = 0;
        if (to) go(to);
      }
    };
    const outside = (event: MouseEvent) => {
      const target = event.target as Element;
      if (!target.closest(".palette, .top")) palette.value = false;
      if (!target.closest(".nav, .menu-button")) menu.value = false;
    };
    addEventListener("keydown", key);
    addEventListener("click", outside);
    return () => { removeEventListener("keydown", key); removeEventListener("click", outside); };
  }, []);
  const here = route.value.path[0] ?? "";
  useEffect(() => { menu.value = false; document.title = `${here in pages && here ? t(here as Key) : t("overview")} · berth`; }, [route.value, language.value]);
  return (
    <div class="shell">
      <nav class={menu.value ? "nav open" : "nav"} aria-label={t("menu")}>
        <div class="brand"><svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="6" fill="#2b7fb4" /><path d="M6 21h20l-3 5H9zM9 12h6v7H9zM17 8h6v11h-6z" fill="#fff" /></svg>berth</div>
        {parts.map(([part, list]) => (
          <div key={part}>
            <div class="part">{t(part)}</div>
            {list.map(([path, key]) => <a key={path} href={link(...(path ? [path] : []))} aria-current={here === path ? "page" : undefined}>{t(key)}</a>)}
          </div>
        ))}
      </nav>
      <div>
        <header class="top">
          <button class="menu-button" aria-expanded={menu.value} onClick={() => { menu.value = !menu.value; }}>☰ {t("menu")}</button>
          <span class="grow" />
          <button class="plain" onClick={() => { palette.value = true; }}>{t("search")} <kbd>Ctrl K</kbd></button>
          <AccountSelect />
          <select aria-label={t("set.language")} value={language.value} onChange={(e) => { language.value = e.currentTarget.value === "zh" ? "zh" : "en"; }}>
            <option value="zh">中文</option><option value="en">English</option>
          </select>
          <button class="plain" aria-label={t("set.theme")} onClick={() => { theme.value = document.documentElement.dataset["theme"] === "dark" ? "light" : "dark"; }}>◐</button>
          <button onClick={() => void logOut().catch((e: unknown) => toast(said(e), true))}>{t("logout")}</button>
        </header>
        {online.value ? null : <div class="banner" role="status">{t("offline")}</div>}
        <main key={account.value}><Page /></main>
      </div>
      {palette.value ? <Palette close={() => { palette.value = false; }} /> : null}
      {help.value ? <Help close={() => { help.value = false; }} /> : null}
    </div>
  );
}

function App() {
  const error = useSignal<unknown>(undefined);
  useEffect(() => {
    const read = () => readSession().then(() => { error.value = undefined; }, (e: unknown) => { error.value = e; setTimeout(read, 1000); });
    void read();
  }, []);
  const shown = session.value ?? interrupted.value;
  return (
    <>
      {shown ? <Frame key={`${shown.account} ${shown.role}`} />
        : session.value === null ? <Login />
          : <div class="login"><p class="dim" role="status">{error.value === undefined ? t("loading") : said(error.value)}</p></div>}
      {shown && !session.value ? <LoginAgain /> : null}
      <Question />
      <Toasts />
    </>
  );
}

render(<App />, document.getElementById("app") as HTMLElement);
