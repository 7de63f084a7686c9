// A terminal in a container. This file and xterm are loaded when they are needed.
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import style from "@xterm/xterm/css/xterm.css";
import { effect } from "@preact/signals";
import { account, session, socket as connect, type Problem } from "./api";
import { said } from "./i18n";
import { addSheet, nonce } from "./sheet";

// Elements that xterm makes need the nonce, too.
const create = document.createElement.bind(document);
document.createElement = ((name: string, options?: ElementCreationOptions) => {
  const made = create(name, options);
  if (name.toLowerCase() === "style") made.nonce = nonce;
  return made;
}) as typeof document.createElement;
addSheet(style);

/** Channels of the session's protocol. */
const INPUT = 0, STATUS = 3, RESIZE = 4;
const PIECE = 32 * 1024;

/** How a session ended. */
export type End = { code: number } | { error: string } | { lost: true };

export type Shell = {
  /** Whom to tell of the end from now on: the page that shows it. */
  listen(told: (end: End) => void): void;
  /** Puts the terminal into an element, from where another page had left it. */
  show(into: HTMLElement): void;
  end(): void;
};

let owner = account.value;
const shells = new Map<string, Shell>();
// A shell is of who opened it.
effect(() => {
  void account.value;
  if (session.value === null || account.value !== owner) for (const shell of [...shells.values()]) shell.end();
  owner = account.value;
});

export function known(id: string): Shell | undefined {
  return shells.get(id);
}

/** Runs a command in a container with a terminal. It lives on while other pages are shown, until it ends or is closed. */
export function open(id: string, command: string[]): Shell {
  let told: (end: End) => void = () => undefined;
  const terminal = new Terminal({ cursorBlink: true, fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono"), fontSize: 14, scrollback: 10_000, theme: { background: "#10151a" }, screenReaderMode: false });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  const host = document.createElement("div");
  host.style.height = "100%";
  const socket = connect(`v1/containers/${encodeURIComponent(id)}/exec`);
  socket.binaryType = "arraybuffer";
  const encoder = new TextEncoder();
  let over = false;
  const frame = (channel: number, bytes: Uint8Array) => {
    const message = new Uint8Array(bytes.length + 1);
    message[0] = channel;
    message.set(bytes, 1);
    if (socket.readyState === WebSocket.OPEN) socket.send(message);
  };
  const finish = (what: End) => {
    if (over) return;
    over = true;
    if (shells.get(id) === shell) shells.delete(id);
    terminal.options.cursorBlink = false;
    terminal.options.disableStdin = true;
    told(what);
  };
  socket.onopen = () => {
    socket.send(JSON.stringify({ command, terminal: true, stdin: true, rows: terminal.rows, columns: terminal.cols, env: ["TERM=xterm-256color"] }));
  };
  socket.onmessage = (event) => {
    const bytes = new Uint8Array(event.data as ArrayBuffer);
    if (bytes[0] === STATUS) {
      const status = JSON.parse(new TextDecoder().decode(bytes.subarray(1))) as { exit_code?: number; error?: Problem };
      finish(status.error ? { error: said(status.error) } : { code: status.exit_code ?? 0 });
    } else if (bytes[0] === 1 || bytes[0] === 2) {
      terminal.write(bytes.subarray(1));
    }
  };
  socket.onclose = () => finish({ lost: true });
  terminal.onData((text) => {
    const bytes = encoder.encode(text);
    for (let at = 0; at < bytes.length; at += PIECE) frame(INPUT, bytes.subarray(at, at + PIECE));
  });
  terminal.onBinary((text) => frame(INPUT, Uint8Array.from(text, (c) => c.charCodeAt(0))));
  terminal.onResize(({ rows, cols }) => frame(RESIZE, encoder.encode(JSON.stringify({ Width: cols, Height: rows }))));
  let watched: ResizeObserver | undefined;
  let opened = false;
  const shell: Shell = {
    listen(next) { told = next; },
    show(into) {
      into.append(host);
      if (!opened) { terminal.open(host); opened = true; }
      fit.fit();
      watched?.disconnect();
      watched = new ResizeObserver(() => { if (host.isConnected) fit.fit(); });
      watched.observe(into);
      terminal.focus();
    },
    end() {
      watched?.disconnect();
      if (shells.get(id) === shell) shells.delete(id);
      over = true;
      socket.close();
      terminal.dispose();
      host.remove();
    },
  };
  shells.set(id, shell);
  return shell;
}
