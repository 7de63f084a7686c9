// The one WebSocket of this tab: everything that is followed goes through it, and is taken up again when it comes back.
import { computed, effect, signal } from "@preact/signals";
import { account, readSession, session, socket as open, type Problem, type Schema } from "./api";

export type Message = {
  id: number | null;
  position?: number;
  events?: Schema["Event"][];
  stats?: Schema["Stats"][];
  lines?: Schema["LogEntry"][];
  container?: Schema["Container"];
  command?: Schema["Command"];
  pull?: Schema["Pull"];
  error?: Problem;
  end?: boolean;
};
type Ask = Record<string, unknown> & { watch: string };
type Watch = { ask: () => Ask; tell: (message: Message) => void };

/** Whether the server is there. */
export const online = signal(true);
/** Grows with every connection after the first: what was read before may be old. */
export const reconnects = signal(0);

const watches = new Map<number, Watch>();
let socket: WebSocket | null = null;
let next = 1;
let pause = 250;
let connectedOnce = false;
let timer: ReturnType<typeof setTimeout> | undefined;

function ask(id: number, watch: Watch): void {
  socket?.send(JSON.stringify({ id, ...watch.ask() }));
}

function connect(): void {
  clearTimeout(timer);
  const made = open("v1/watch");
  current = made;
  socket = null;
  made.onopen = () => {
    if (current !== made) return;
    socket = made;
    online.value = true;
    pause = 250;
    if (connectedOnce) reconnects.value += 1;
    connectedOnce = true;
    for (const [id, watch] of watches) ask(id, watch);
  };
  made.onmessage = (event) => {
    if (current !== made) return;
    const message = JSON.parse(String(event.data)) as Message;
    if (message.id !== null) watches.get(message.id)?.tell(message);
  };
  made.onclose = () => {
    if (current !== made) return;
    socket = null;
    online.value = false;
    timer = setTimeout(() => {
      // A session that is over is no server that is away.
      const again = () => { if (current === made && session.value) connect(); };
      readSession().then(again, again);
    }, pause);
    pause = Math.min(pause * 1.6, 2000);
  };
}
let current: WebSocket | null = null;

/** Whether somebody is logged in: a session that was only read again is the same one. */
const loggedIn = computed(() => Boolean(session.value));
effect(() => {
  const on = loggedIn.value;
  void account.value;
  const before = current;
  current = null;
  socket = null;
  before?.close();
  clearTimeout(timer);
  if (on) connect();
});

/** Follows something until the returned function is called. `request` is asked again after each interruption. */
export function watch(request: () => Ask, tell: (message: Message) => void): () => void {
  const id = next++;
  const made = { ask: request, tell };
  watches.set(id, made);
  if (socket?.readyState === WebSocket.OPEN) ask(id, made);
  return () => {
    watches.delete(id);
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ id, watch: "stop" }));
  };
}

type Listener = (event: Schema["Event"]) => void;
const listeners = new Set<Listener>();
let stopEvents: (() => void) | null = null;
let lastEvent: number | undefined;
effect(() => { void account.value; lastEvent = undefined; });

/** Calls back for every event of the account, none missed and none twice. */
export function onEvent(listener: Listener): () => void {
  listeners.add(listener);
  stopEvents ??= watch(
    () => ({ watch: "events", ...(lastEvent === undefined ? {} : { after: lastEvent }) }),
    (message) => {
      if (message.position !== undefined) lastEvent ??= message.position;
      for (const event of message.events ?? []) {
        if (lastEvent !== undefined && event.number <= lastEvent) continue;
        lastEvent = event.number;
        for (const each of [...listeners]) each(event);
      }
    },
  );
  return () => { listeners.delete(listener); };
}
