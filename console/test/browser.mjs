// Drives the console in a real Chromium. Arguments: the server's address, an administrator's token,
// a port on which the server takes a registry without TLS. A line on standard output asks
// the caller to restart the server; it answers with a line on standard input.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [base, token, registryPort] = process.argv.slice(2);
const shots = process.env.BERTH_SCREENSHOTS;
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const api = (method, path, body, extra = {}) => fetch(`${base}/${path}`, {
  method, headers: { authorization: `Bearer ${token}`, ...(body ? { "content-type": "application/json" } : {}), ...extra }, body: body ? JSON.stringify(body) : undefined,
});
const step = (name) => console.error(`console: ${name}`);

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const faults = [];
const strangers = [];

async function open(locale, where = base, options = {}) {
  const context = await browser.newContext({ locale, viewport: { width: 1280, height: 800 }, ...options });
  const page = await context.newPage();
  page.on("console", (message) => { if (message.type() === "error" && !/Failed to load resource|WebSocket connection/.test(message.text())) faults.push(message.text()); });
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("dialog", (dialog) => { faults.push(`a dialog of script: ${dialog.message()}`); void dialog.dismiss(); });
  page.on("request", (request) => { if (!request.url().startsWith(new URL(where).origin) && !request.url().startsWith("blob:") && !request.url().startsWith("data:")) strangers.push(request.url()); });
  await page.goto(`${where}/`);
  return { context, page };
}

async function logIn(page, words) {
  await page.getByLabel(words.token, { exact: true }).fill(token);
  await page.getByRole("button", { name: words.submit }).click();
  await page.getByRole("heading", { name: words.overview }).waitFor();
}
const english = { token: "Token", submit: "Log in", overview: "Overview" };
const chinese = { token: "令牌", submit: "登录", overview: "概览" };

try {
  step("login");
  const { context, page } = await open("en-US");
  await page.getByLabel("Token", { exact: true }).fill("berth_wrong");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").filter({ hasText: "Login failed" }).waitFor();
  await logIn(page, english);
  const cookies = await context.cookies();
  const cookie = cookies.find((each) => each.name === "berth-session");
  assert.ok(cookie?.httpOnly && cookie.sameSite === "Strict", JSON.stringify(cookies));

  step("attacks on the session");
  const own = { cookie: `berth-session=${cookie.value}`, origin: base };
  const raw = (path, options) => fetch(`${base}/${path}`, options);
  const csrf = await page.evaluate(() => localStorage.getItem("berth-csrf"));
  const me = await (await raw("v1/session", { headers: { cookie: own.cookie, "berth-csrf": csrf } })).json();
  assert.equal(me.role, "admin");
  assert.equal(me.csrf ?? null, null, "told once");
  assert.equal((await raw("v1/session", { headers: { cookie: own.cookie } })).status, 403, "a cookie that another port of the host was sent is no session");
  const post = (headers) => raw("v1/volumes", { method: "POST", headers: { "content-type": "application/json", ...headers }, body: '{"name":"forged"}' });
  assert.equal((await post({ ...own })).status, 403, "no token");
  assert.equal((await post({ cookie: own.cookie, "berth-csrf": csrf })).status, 403, "no origin");
  assert.equal((await post({ ...own, origin: "http://evil.example", "berth-csrf": csrf })).status, 403, "another page");
  assert.equal((await post({ ...own, "berth-csrf": csrf })).status, 201);
  assert.equal((await api("DELETE", "v1/volumes/forged")).status, 204);
  const dialect = await raw("tingyu/node/list", { headers: own });
  assert.ok(!(await dialect.text()).includes('"nodes"'), "a dialect takes no cookie");
  const upgrade = (origin, protocol = `berth, berth-csrf.${csrf}`) => new Promise((resolve) => {
    const to = new URL(base);
    const socket = net.connect(Number(to.port), to.hostname, () => {
      socket.write(`GET /v1/watch HTTP/1.1\r\nHost: ${to.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: ${own.cookie}\r\nSec-WebSocket-Protocol: ${protocol}\r\nOrigin: ${origin}\r\n\r\n`);
    });
    socket.once("data", (data) => { resolve(Number(String(data).split(" ")[1])); socket.destroy(); });
  });
  assert.equal(await upgrade("http://evil.example"), 403);
  assert.equal(await upgrade(base, "berth"), 403, "no secret of a page");
  assert.equal(await upgrade(base), 101);
  // A page of somebody else has it in a frame: the browser shows nothing of it.
  const framing = http.createServer((request, answer) => { answer.setHeader("content-type", "text/html"); answer.end(`<iframe src="${base}/"></iframe>`); }).listen(0, "127.0.0.1");
  await once(framing, "listening");
  const framed = await (await browser.newContext()).newPage();
  await framed.goto(`http://127.0.0.1:${framing.address().port}/`);
  await framed.waitForFunction(() => window.frames.length === 1);
  await framed.waitForLoadState("load");
  assert.equal(framed.frames()[1].url(), "chrome-error://chromewebdata/");
  await framed.context().close();
  framing.close();
  for (const path of ["", "docs/"]) {
    const headers = (await raw(path, {})).headers;
    assert.match(headers.get("content-security-policy"), /frame-ancestors 'none'/, path);
    assert.equal(headers.get("x-content-type-options"), "nosniff");
    assert.equal(headers.get("referrer-policy"), "no-referrer");
  }

  step("a container by the form");
  await page.keyboard.press("g");
  await page.keyboard.press("c");
  await page.getByRole("heading", { name: "Containers" }).waitFor();
  await page.getByRole("button", { name: "Create", exact: true }).click();
  const form = page.locator("dialog");
  await form.locator('input[name="image"]').fill("busybox");
  await form.locator('input[name="name"]').fill("formed");
  await form.locator('input[name="command"]').fill("sh -c 'echo it begins; while true; do sleep 1; done'");
  await form.locator("pre").filter({ hasText: "berth run -d --name formed" }).waitFor();
  await form.getByRole("button", { name: "Create and start" }).dblclick();
  await page.getByRole("heading", { name: "/ formed" }).waitFor();
  assert.equal((await (await api("GET", "v1/containers/summary?text=formed")).json()).total, 1, "a double click makes one");

  step("text that is an attack stays text");
  const attack = "<img src=x onerror=alert(1)>";
  const script = `echo '${attack}'; printf '\\033[31mred\\033[0m \\033]52;c;c3RvbGVu\\007after\\n'; n=0; while [ $n -lt 3000 ]; do echo line $n; n=$((n+1)); done; head -c 5000000 /dev/zero | tr '\\0' x; echo; while true; do sleep 0.2; done`;
  const loud = await (await api("POST", "v1/containers", { image: "busybox", name: "loud", command: ["sh", "-c", script], labels: { "<b>label</b>": attack }, start: true })).json();
  await page.goto(`${base}/#/containers/${loud.id}`);
  await page.locator("pre").filter({ hasText: attack }).waitFor();

  step("logs");
  await page.getByRole("tab", { name: "Logs" }).click();
  const log = page.locator(".log");
  await log.getByText("line 2999", { exact: true }).waitFor();
  await log.locator("div").filter({ hasText: "xxxx" }).first().waitFor();
  await page.getByLabel("Search with a regular expression").fill("^line 1[0-9]$");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await page.getByText("10 matches").waitFor();
  await log.getByText("line 15", { exact: true }).waitFor();
  await page.getByLabel("Search with a regular expression").fill("onerror");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await log.getByText("<img src=x", { exact: false }).waitFor();
  await page.getByLabel("Search with a regular expression").fill("");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await log.getByText("line 2999", { exact: true }).waitFor();
  for (let n = 0; n < 40 && !(await page.getByText("Beginning of the log").isVisible()); n += 1) {
    await log.evaluate((element) => { element.scrollTop = 0; });
    await page.waitForTimeout(100);
  }
  await log.getByText("line 0", { exact: true }).waitFor();
  await log.getByText("red", { exact: true }).waitFor();
  const started = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download" }).click();
  const saved = readFileSync(await (await started).path());
  const direct = Buffer.from(await (await api("GET", `v1/containers/${loud.id}/logs?format=text`)).arrayBuffer());
  assert.ok(saved.equals(direct), "the download is the log");

  step("a million lines");
  const million = await (await api("POST", "v1/containers", { image: "busybox", name: "million", command: ["sh", "-c", "seq 1 1000000; echo all; sleep 1000"], start: true })).json();
  // Written first: how fast a browser follows a million lines is another question.
  while (!(await (await api("GET", `v1/containers/${million.id}/logs?tail=1&format=text`)).text()).includes("all")) await page.waitForTimeout(200);
  await page.goto(`${base}/#/containers/${million.id}/logs`);
  await log.getByText("all", { exact: true }).waitFor({ timeout: 60_000 });
  const began = performance.now();
  await page.getByLabel("Search with a regular expression").fill("^[0-9]*77777$");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await page.getByText("10 matches").waitFor();
  await log.getByText("977777", { exact: true }).waitFor();
  await page.getByLabel("Line numbers").check();
  await log.locator(".number").first().waitFor({ state: "attached" });
  assert.deepEqual(await log.locator("> div").evaluateAll((rows) => rows.map((row) => row.querySelector(".number").dataset.number)), [...Array(10).keys()].map((n) => `${n || ""}77777`), "the numbers are of the log, not of what was found");
  console.error(`console: a search of a million lines: ${(performance.now() - began).toFixed(0)} ms (promised: 2000)`);
  assert.ok(performance.now() - began < 12_000);
  await page.getByLabel("Search with a regular expression").fill("");
  await page.getByRole("button", { name: "Search", exact: true }).click();
  await log.getByText("all", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Go to the beginning" }).click();
  await log.getByText("1", { exact: true }).waitFor();
  await page.getByText("Beginning of the log").waitFor();
  assert.ok(!(await page.getByLabel("Follow").isChecked()));
  // From there to later lines, page by page; no line is missed or doubled.
  for (let n = 0; n < 60 && (await log.getByText("4000", { exact: true }).count()) === 0; n += 1) {
    await log.evaluate((element) => { element.scrollTop = element.scrollHeight; });
    await page.waitForTimeout(100);
  }
  assert.equal(await log.getByText("4000", { exact: true }).count(), 1, "later lines are read");
  const numbers = (await log.locator("> div").allTextContents()).map(Number);
  assert.deepEqual(numbers, numbers.map((_, n) => numbers[0] + n), "lines one after the other");
  const numbered = () => log.locator("> div").evaluateAll((rows) => rows.map((row) => Number(row.querySelector(".number").dataset.number)));
  assert.deepEqual(await numbered(), numbers, "each with its number");
  assert.ok(numbers.length <= 2500, `${numbers.length} rows`);
  await page.getByLabel("Follow").check();
  await log.getByText("all", { exact: true }).waitFor();
  await api("DELETE", `v1/containers/${million.id}?force=true`);

  step("a thousand lines a second");
  const fast = await (await api("POST", "v1/containers", { image: "busybox", name: "fast", command: ["sh", "-c", "n=0; while true; do seq $n $((n+99)); n=$((n+100)); sleep 0.1; done"], start: true })).json();
  await page.goto(`${base}/#/containers/${fast.id}/logs`);
  await log.getByText("3000", { exact: true }).waitFor({ timeout: 30_000 });
  const drawn = await page.evaluate(() => new Promise((resolve) => {
    let count = 0;
    const begun = performance.now();
    const frame = () => { count += 1; if (performance.now() - begun < 3000) requestAnimationFrame(frame); else resolve(count / 3); };
    requestAnimationFrame(frame);
  }));
  console.error(`console: ${drawn.toFixed(0)} frames a second while a thousand lines a second come`);
  assert.ok(drawn >= 8, `${drawn} frames a second`);
  // What is selected stays, and what comes is counted.
  await log.evaluate((element) => { element.scrollTop -= 300; element.dispatchEvent(new Event("scroll")); });
  await page.getByText(/new lines/).waitFor();
  const selected = await log.evaluate((element) => {
    const row = [...element.children].find((each) => each.getBoundingClientRect().top > element.getBoundingClientRect().top + 20);
    getSelection().selectAllChildren(row);
    return getSelection().toString();
  });
  await page.waitForFunction(() => Number(/(\d[\d,]*) new lines/.exec(document.body.innerText)?.[1].replace(",", "")) > 1200, undefined, { timeout: 20_000 });
  assert.equal(await page.evaluate(() => getSelection().toString()), selected);
  await api("DELETE", `v1/containers/${fast.id}?force=true`);

  step("a pull from a slow registry");
  const inside = randomBytes((4 << 20) - 512);
  const head = Buffer.alloc(512);
  for (const [at, text] of [[0, "x"], [100, "0000644"], [108, "0000000"], [116, "0000000"], [136, "00000000000"], [124, inside.length.toString(8).padStart(11, "0")], [148, "        "], [156, "0"], [257, "ustar\x0000"]]) head.write(text, at, "latin1");
  head.write(`${head.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  const blob = Buffer.concat([head, inside]);
  const sha = (bytes) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  const config = Buffer.from(JSON.stringify({ architecture: "amd64", os: "linux", config: {}, rootfs: { type: "layers", diff_ids: [sha(blob)] } }));
  const manifest = Buffer.from(JSON.stringify({
    schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: sha(config), size: config.length },
    layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest: sha(blob), size: blob.length }],
  }));
  let given = 0;
  let closed;
  const ended = new Promise((resolve) => { closed = resolve; });
  const registry = http.createServer((request, response) => {
    if (request.url.includes("/secret/")) {
      response.writeHead(403, { "content-type": "application/json" });
      response.end(JSON.stringify({ errors: [{ code: "DENIED", message: "this part of the shop is closed" }] }));
    } else if (request.url.includes("/manifests/")) {
      response.writeHead(200, { "content-type": "application/vnd.oci.image.manifest.v1+json", "docker-content-digest": sha(manifest), "content-length": manifest.length });
      response.end(manifest);
    } else if (request.url.endsWith(sha(config))) {
      response.end(config);
    } else if (request.url.endsWith(sha(blob))) {
      response.writeHead(200, { "content-length": blob.length });
      // Half of it comes, and then nothing more.
      response.write(blob.subarray(0, blob.length / 2));
      given += 1;
      response.on("close", closed);
    } else {
      response.writeHead(request.url === "/v2/" ? 200 : 404);
      response.end();
    }
  });
  registry.listen(Number(registryPort), "127.0.0.1");
  await once(registry, "listening");
  const from = `127.0.0.1:${registryPort}`;
  await page.goto(`${base}/#/images`);
  await page.getByLabel(/^Name of the image/).fill(`${from}/slow/image:1`);
  await page.getByRole("button", { name: "Pull", exact: true }).click();
  const pulled = page.locator(".card").filter({ hasText: "slow/image:1" });
  const progress = pulled.getByText(/downloading 2(\.0+)? MiB/);
  await progress.waitFor();
  await page.reload();
  await progress.waitFor();
  assert.equal(given, 1, "a reload begins no second pull");
  await pulled.getByRole("button", { name: "Cancel" }).click();
  await pulled.getByText("cancelled").waitFor();
  await ended;
  await page.getByLabel(/^Name of the image/).fill(`${from}/secret/image:1`);
  await page.getByRole("button", { name: "Pull", exact: true }).click();
  await page.getByText("this part of the shop is closed").first().waitFor();
  registry.closeAllConnections();
  registry.close();

  step("terminal");
  await page.goto(`${base}/#/containers/${loud.id}/terminal`);
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  const rows = page.locator(".xterm-rows");
  await rows.getByText("#").first().waitFor();
  await page.keyboard.type("echo 中文-$((40+2))\n");
  await rows.getByText("中文-42").waitFor();
  // What is typed while the shell takes the signal itself would be lost: it comes when the program runs, and after its end.
  await page.keyboard.type("echo begun-$((1+1)); sleep 100\n");
  await rows.getByText("begun-2").waitFor();
  await page.keyboard.press("Control+c");
  await rows.getByText("^C").waitFor();
  await page.keyboard.type("echo after-$((1+1))\n");
  await rows.getByText("after-2").waitFor();
  // A million characters that are pasted all arrive.
  await page.keyboard.type("stty -echo; cat | wc -c\n");
  await page.waitForTimeout(300);
  await page.locator(".xterm-helper-textarea").evaluate((area) => {
    const data = new DataTransfer();
    data.setData("text/plain", `${"x".repeat(99)}\n`.repeat(10_000));
    area.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
  });
  await page.keyboard.press("Control+d");
  await rows.getByText("1000000").waitFor();
  await page.keyboard.type("stty echo\n");
  await page.getByRole("link", { name: "Images" }).click();
  await page.getByRole("heading", { name: "Images" }).waitFor();
  await page.goBack();
  await rows.getByText("after-2").waitFor();
  await page.locator(".xterm-helper-textarea").focus();
  await page.keyboard.type("exit 7\n");
  await page.getByText("exit code 7").waitFor();

  step("charts, files, processes");
  await page.goto(`${base}/#/containers/${loud.id}/charts`);
  await page.locator(".chart canvas").first().waitFor();
  await page.getByText("The last hour, and live").waitFor();
  assert.equal(await page.locator('main [role="alert"]').count(), 0, "the last hour is there");
  await page.goto(`${base}/#/containers/${loud.id}/files`);
  await page.getByRole("button", { name: "etc/" }).click();
  await page.getByRole("cell", { name: "passwd" }).first().waitFor();
  await api("POST", `v1/containers/${loud.id}/exec`, { command: ["sh", "-c", "mkdir -p /tmp; touch '/tmp/<img src=x onerror=alert(2)>'"] });
  await page.goto(`${base}/#/`);
  await page.goto(`${base}/#/containers/${loud.id}/files`);
  await page.getByRole("button", { name: "tmp/" }).click();
  await page.getByText("<img src=x onerror=alert(2)>").first().waitFor();
  await page.goto(`${base}/#/containers/${loud.id}/processes`);
  await page.getByText("sleep 0.2").first().waitFor();

  step("a change elsewhere is seen at once");
  await page.goto(`${base}/#/containers`);
  await page.getByRole("link", { name: "formed" }).waitFor();
  await api("POST", `v1/containers/${loud.id}/stop?timeout=0`);
  await page.locator("tr").filter({ hasText: "loud" }).getByText("exited").waitFor({ timeout: 2000 });
  await page.keyboard.press("/");
  await page.keyboard.type("form");
  await page.getByRole("link", { name: "loud" }).waitFor({ state: "detached" });
  await page.getByRole("link", { name: "formed" }).waitFor();

  step("many at once, each time by one request");
  await page.getByRole("searchbox").fill("many-");
  for (const n of [1, 2, 3]) await api("POST", "v1/containers", { image: "busybox", name: `many-${n}`, command: ["sleep", "1000"], start: true });
  const sent = [];
  const changes = (request) => { if (request.method() !== "GET") sent.push(`${request.method()} ${new URL(request.url()).pathname}`); };
  page.on("request", changes);
  for (const n of [1, 2, 3]) await page.getByRole("checkbox", { name: `many-${n}` }).check();
  await page.getByRole("button", { name: "Remove", exact: true }).click();
  await page.locator("dialog").getByRole("button", { name: "Confirm" }).click();
  await page.getByText("0 done, 3 failed").waitFor();
  await page.getByRole("button", { name: "Remove", exact: true }).click();
  await page.locator("dialog").getByRole("checkbox").check();
  await page.locator("dialog").getByRole("button", { name: "Confirm" }).dblclick();
  await page.getByText("3 done", { exact: false }).last().waitFor();
  await page.getByRole("link", { name: "many-1" }).waitFor({ state: "detached" });
  assert.deepEqual(sent, ["POST /v1/bulk/containers", "POST /v1/bulk/containers"]);
  page.off("request", changes);
  await page.getByRole("searchbox").fill("form");

  step("by keyboard alone");
  await page.getByRole("searchbox").blur();
  await page.keyboard.press("Control+k");
  await page.keyboard.type("volum");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Volumes" }).waitFor();
  await page.keyboard.press("?");
  await page.getByRole("dialog").getByText("Ctrl K").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.keyboard.press("g");
  await page.keyboard.press("i");
  await page.getByRole("heading", { name: "Images" }).waitFor();

  step("the server goes and comes back");
  await page.goto(`${base}/#/containers/${loud.id}`);
  await page.getByRole("heading", { name: "/ loud" }).waitFor();
  console.log("kill");
  await input.next();
  await page.getByText("connection to the server is lost").waitFor({ timeout: 3000 });
  console.log("start");
  await input.next();
  await page.getByText("connection to the server is lost").waitFor({ state: "detached", timeout: 3000 });
  await api("POST", `v1/containers/${loud.id}/start`);
  await page.locator(".head .state").filter({ hasText: "running" }).waitFor({ timeout: 3000 });

  step("a log over restarts has each line once");
  const counter = await (await api("POST", "v1/containers", { image: "busybox", name: "counter", command: ["sh", "-c", "n=0; while true; do echo tick $n; n=$((n+1)); sleep 0.05; done"], start: true })).json();
  await page.goto(`${base}/#/containers/${counter.id}/logs`);
  await page.locator(".log").getByText("tick 5", { exact: true }).waitFor();
  console.log("kill");
  await input.next();
  await page.locator(".banner").waitFor({ timeout: 3000 });
  console.log("start");
  await input.next();
  await page.locator(".banner").waitFor({ state: "detached", timeout: 3000 });
  await page.waitForTimeout(1500);
  const ticks = (await page.locator(".log > div").allInnerTexts()).map((text) => Number(text.trim().split(" ")[1]));
  assert.deepEqual(ticks, ticks.map((_, n) => ticks[0] + n), "none missed, none twice");
  await api("POST", `v1/containers/${counter.id}/restart?timeout=0`);
  await page.waitForFunction((least) => [...document.querySelectorAll(".log > div")].filter((row) => row.textContent.trim() === "tick 5").length > least, 1, { timeout: 5000 });
  await api("DELETE", `v1/containers/${counter.id}?force=true`);

  step("a terminal ends with its session");
  await page.goto(`${base}/#/containers/${loud.id}/terminal`);
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  await page.locator(".xterm-rows").getByText("#").first().waitFor();
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByLabel("Token", { exact: true }).waitFor();
  await page.goto(`${base}/#/`);
  await logIn(page, english);
  await page.goto(`${base}/#/containers/${loud.id}/terminal`);
  await page.getByRole("button", { name: "Connect", exact: true }).waitFor();

  step("a cap that nobody touched is not sent");
  const capped = await (await api("POST", "v1/containers", { image: "busybox", name: "capped", command: ["sleep", "1000"], ingress: 20e6, start: true })).json();
  await page.goto(`${base}/#/containers/${capped.id}`);
  const inward = page.getByLabel(/^Bandwidth in/);
  await inward.waitFor();
  await api("PATCH", `v1/containers/${capped.id}`, { egress: 7e6 });
  await page.waitForFunction(() => [...document.querySelectorAll("main input")].some((input) => input.value === "7"));
  await inward.fill("x");
  await page.getByRole("button", { name: "Change", exact: true }).click();
  await page.getByText("a number from 0.1 to 10000 is needed").waitFor();
  await inward.fill("30");
  await page.getByRole("button", { name: "Change", exact: true }).click();
  await page.getByText("(30 Mbit/s)").waitFor();
  const rates = await (await api("GET", `v1/containers/${capped.id}`)).json();
  assert.deepEqual([rates.ingress, rates.egress], [30e6, 7e6]);
  await page.goto(`${base}/#/containers/${capped.id}/charts`);
  await page.getByLabel("Time").selectOption("24");
  await page.getByText("No points in this time").waitFor();

  step("a crash loop is stopped from its page, and the list sees it");
  await api("POST", "v1/containers", { image: "busybox", name: "looping", restart: "always", command: ["sh", "-c", "exit 3"], start: true });
  await page.goto(`${base}/#/containers`);
  const typed = page.getByRole("searchbox");
  assert.equal(await typed.inputValue(), "form", "the filter is as it was left");
  await typed.fill("");
  const looping = page.locator("tr").filter({ hasText: "looping" });
  await looping.getByText("restarting").waitFor({ timeout: 10000 });
  await looping.getByRole("link", { name: "looping" }).click();
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await page.locator("dialog").getByRole("button", { name: "Confirm" }).click();
  await page.locator(".head .state").filter({ hasText: "exited" }).waitFor({ timeout: 5000 });
  await page.goBack();
  await looping.getByText("(3)").waitFor();
  await looping.getByText("restarting").waitFor({ state: "detached", timeout: 2000 });

  step("a roll-out of a broken version halts, says why, and undoes itself");
  await api("POST", "v1/services", { name: "shop" });
  const well = { image: "busybox", replicas: 10, command: ["sh", "-c", "echo all is well; sleep 1000"] };
  const made = await (await api("POST", "v1/services/shop/groups", { name: "prod", spec: well })).json();
  await api("GET", `v1/commands/${made.command.id}/wait`);
  await page.goto(`${base}/#/services`);
  await page.getByText("Replicas: 10/10").waitFor({ timeout: 20_000 });
  const broken = await (await api("PUT", "v1/services/shop/groups/prod", { ...well, command: ["sh", "-c", "echo the shop is broken; exit 3"] })).json();
  await page.goto(`${base}/#/operations/${broken.id}`);
  await page.getByText("the shop is broken").first().waitFor({ timeout: 30_000 });
  await page.locator(".head .state, dd .state").filter({ hasText: "failed" }).first().waitFor({ timeout: 30_000 });
  await page.goto(`${base}/#/services`);
  await page.getByText("Replicas: 10/10").waitFor({ timeout: 20_000 });
  const left = await (await api("GET", "v1/services/shop/groups/prod")).json();
  assert.ok(left.containers.every((each) => each.state === "running"), JSON.stringify(left.containers));
  const line = await (await api("GET", `v1/containers/${left.containers[0].id}/logs?format=text`)).text();
  assert.equal(line, "all is well\n", "what ran before runs on");

  step("back to what a group was, in two clicks");
  const second = await (await api("PUT", "v1/services/shop/groups/prod", { ...well, env: { SECOND: "yes" } })).json();
  await api("GET", `v1/commands/${second.id}/wait`);
  await page.goto(`${base}/#/`);
  await page.goto(`${base}/#/services`);
  await page.getByRole("button", { name: "Detail" }).click();
  await page.locator("dialog tr").filter({ hasText: "env" }).getByText("current").waitFor();
  await page.getByRole("button", { name: "Back to revision 1" }).click();
  await page.locator(".head .state, dd .state").filter({ hasText: "succeeded" }).first().waitFor({ timeout: 60_000 });
  const back = await (await api("GET", "v1/services/shop/groups/prod")).json();
  assert.deepEqual([back.spec.env ?? {}, back.spec.replicas], [{}, 10], JSON.stringify(back.spec));
  const gone = await (await api("DELETE", "v1/services/shop/groups/prod")).json();
  await api("GET", `v1/commands/${gone.id}/wait`);

  step("a removed container says so");
  await page.goto(`${base}/#/containers/${capped.id}`);
  await page.getByRole("heading", { name: "/ capped" }).waitFor();
  await api("DELETE", `v1/containers/${capped.id}?force=true`);
  await page.getByText("This container was removed.").waitFor({ timeout: 4000 });
  assert.equal(await page.getByRole("button", { name: "Stop", exact: true }).count(), 0);
  await api("DELETE", "v1/containers/looping?force=true");

  step("addresses that name no page");
  for (const path of ["%", "containers/100%", "nonsense"]) {
    await page.goto(`${base}/#/${path}`);
    await page.locator("main h1").waitFor();
  }

  step("what can't be taken back is asked for by its name");
  await api("POST", "v1/volumes", { name: "precious" });
  await page.getByRole("link", { name: "Volumes" }).click();
  await page.locator("tr").filter({ hasText: "precious" }).getByRole("button", { name: "Remove" }).click();
  const sure = page.locator("dialog").getByRole("button", { name: "Confirm" });
  assert.ok(await sure.isDisabled());
  await page.locator("dialog input").fill("precious");
  await sure.click();
  await page.locator("tr").filter({ hasText: "precious" }).waitFor({ state: "detached" });

  step("all pages, both languages, light and dark, without findings of axe");
  const axe = readFileSync(new URL("../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
  const pages = ["", "containers", `containers/${loud.id}`, `containers/${loud.id}/logs`, "images", "volumes", "services", "operations", "hosts", "bandwidth", "usage", "accounts/accounts", "accounts/tokens", "accounts/keys", "accounts/ssh", "accounts/registries", "audit", "doctor", "settings", "about"];
  for (const [locale, words] of [["en-US", english], ["zh-CN", chinese]]) {
    for (const scheme of ["light", "dark"]) {
      const seen = await open(locale, base, { colorScheme: scheme, bypassCSP: true });
      await logIn(seen.page, words);
      for (const path of pages) {
        await seen.page.goto(`${base}/#/${path}`);
        await seen.page.locator("main h1").waitFor();
        await seen.page.waitForTimeout(150);
        await seen.page.evaluate(axe);
        const found = await seen.page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa"] }));
        const bad = found.violations.filter((each) => ["serious", "critical"].includes(each.impact));
        assert.deepEqual(bad.map((each) => `${locale} ${scheme} ${path}: ${each.id}: ${each.nodes[0].html}: ${each.nodes[0].failureSummary}`), []);
        const text = await seen.page.locator("#app").innerText();
        const keys = text.match(/\b(?:nav|state|acc|ops|bw|log|term|set|ov|error|images|tab)\.[a-z_]+\b/g);
        assert.equal(keys, null, `${locale} ${path}: ${keys}`);
        if (shots && ["", "containers", `containers/${loud.id}`, "images", "bandwidth", "accounts/accounts"].includes(path)) {
          await seen.page.screenshot({ path: `${shots}/${path.split("/")[0] || "overview"}${path.includes("/") && path.startsWith("containers") ? "-detail" : ""}-${locale.slice(0, 2)}-${scheme}.png` });
        }
      }
      await seen.context.close();
    }
  }

  step("a narrow screen, and the language switched without a reload");
  await page.setViewportSize({ width: 360, height: 740 });
  for (const path of ["", "containers", "images", "bandwidth", "accounts/tokens", `containers/${loud.id}`]) {
    await page.goto(`${base}/#/${path}`);
    await page.locator("main h1").waitFor();
    await page.waitForTimeout(150);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(over <= 1, `${path} is ${over} px too wide`);
  }

  step("at a zoom of 200 % nothing is cut off");
  // A window of 1280 by 800 at 200 % has half as many pixels of CSS.
  const cutOff = () => {
    const found = [];
    for (const each of document.querySelectorAll("#app *")) {
      const words = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      const box = each.getBoundingClientRect();
      if (!words || box.width === 0 || box.height === 0 || each.closest(".chart, .terminal, .log, svg, option, .sr")) continue;
      // What is shortened with an ellipsis says the whole of it to whoever points at it.
      const style = getComputedStyle(each);
      const shortened = style.overflowX !== "visible" && style.overflowX !== "auto" && style.overflowX !== "scroll" && each.scrollWidth > each.clientWidth + 1;
      let scrolls = false;
      for (let above = each; above && above.id !== "app"; above = above.parentElement) {
        if (["auto", "scroll"].includes(getComputedStyle(above).overflowX)) scrolls = true;
      }
      const outside = !scrolls && box.right > innerWidth + 1;
      if ((shortened && !each.closest("[title]")) || outside) found.push(`${each.tagName}.${each.className}: ${each.textContent.slice(0, 60)}`);
    }
    return found;
  };
  for (const [locale, words] of [["en-US", english], ["zh-CN", chinese]]) {
    const seen = await open(locale, base, { viewport: { width: 640, height: 400 }, deviceScaleFactor: 2 });
    await logIn(seen.page, words);
    for (const path of pages) {
      await seen.page.goto(`${base}/#/${path}`);
      await seen.page.locator("main h1").waitFor();
      await seen.page.waitForTimeout(150);
      assert.deepEqual(await seen.page.evaluate(cutOff), [], `${locale} ${path}`);
      const over = await seen.page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(over <= 1, `${locale} ${path} is ${over} px too wide`);
    }
    await seen.context.close();
  }
  await page.setViewportSize({ width: 1280, height: 800 });

  step("a new secret, and how long the old one is good");
  const key = await (await api("POST", "v1/keys", { name: "turned" })).json();
  await page.goto(`${base}/#/accounts/keys`);
  await page.locator("tr").filter({ hasText: "turned" }).getByRole("button", { name: "New secret" }).click();
  await page.locator("dialog select").selectOption("3600");
  await page.locator("dialog").getByRole("button", { name: "New secret" }).click();
  await page.locator("pre").filter({ hasText: key.access_key }).waitFor();
  const turned = (await (await api("GET", "v1/keys")).json()).items.find((each) => each.name === "turned");
  const good = (Date.parse(turned.old_secret_until) - Date.now()) / 1000;
  assert.ok(good > 3500 && good <= 3600, `${good} s`);
  await page.goto(`${base}/#/settings`);
  // What was refused in one language is said in the other, and what an operation of long ago has failed with.
  await page.goto(`${base}/#/containers/nobody`);
  await page.getByText("no such container: nobody").waitFor();
  await page.locator("header").getByLabel("Language").selectOption("zh");
  await page.getByText("没有这个容器：nobody").waitFor();
  await page.goto(`${base}/#/operations/${broken.id}`);
  await page.locator("p.said").filter({ hasText: "the shop is broken" }).waitFor();
  const why = await page.locator("p.said").textContent();
  assert.ok(/[\u4e00-\u9fff]/.test(why) && !why.includes("container"), why);
  await page.goto(`${base}/#/settings`);
  await page.getByRole("heading", { name: "设置" }).waitFor();

  step("below a path of a proxy");
  const target = new URL(base);
  const proxy = http.createServer((request, response) => {
    const path = request.url.replace(/^\/berth/, "");
    const passed = http.request({ host: target.hostname, port: target.port, path, method: request.method, headers: request.headers }, (answer) => { response.writeHead(answer.statusCode, answer.headers); answer.pipe(response); });
    passed.on("error", () => response.destroy());
    request.pipe(passed);
  });
  proxy.on("upgrade", (request, client, head) => {
    const passed = net.connect(Number(target.port), target.hostname, () => {
      passed.write(`${request.method} ${request.url.replace(/^\/berth/, "")} HTTP/1.1\r\n${request.rawHeaders.reduce((all, each, n) => all + (n % 2 ? `${each}\r\n` : `${each}: `), "")}\r\n`);
      passed.write(head);
      passed.pipe(client).pipe(passed);
    });
    passed.on("error", () => client.destroy());
    client.on("error", () => passed.destroy());
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const below = await open("zh-CN", `http://127.0.0.1:${proxy.address().port}/berth`);
  await logIn(below.page, chinese);
  await below.page.getByRole("link", { name: "容器", exact: true }).click();
  await below.page.getByRole("link", { name: "formed" }).waitFor();
  await api("POST", "v1/containers/formed/stop?timeout=0");
  await below.page.locator("tr").filter({ hasText: "formed" }).getByText("已退出").waitFor({ timeout: 3000 });
  await below.context.close();
  proxy.closeAllConnections();
  proxy.close();

  step("a revoked token ends its sessions");
  const other = await (await api("POST", "v1/tokens", { name: "short", role: "admin" })).json();
  const guest = await open("en-US");
  await guest.page.getByLabel("Token", { exact: true }).fill(other.token);
  await guest.page.getByRole("button", { name: "Log in" }).click();
  await guest.page.getByRole("heading", { name: "Overview" }).waitFor();
  await api("DELETE", `v1/tokens/${other.number}`);
  await guest.page.getByLabel("Token", { exact: true }).waitFor({ timeout: 2000 });

  step("what was typed is there again after the session has ended");
  const third = await (await api("POST", "v1/tokens", { name: "third", role: "admin" })).json();
  await guest.page.getByLabel("Token", { exact: true }).fill(third.token);
  await guest.page.getByRole("button", { name: "Log in" }).click();
  await guest.page.getByRole("heading", { name: "Overview" }).waitFor();
  await guest.page.goto(`${base}/#/containers`);
  await guest.page.getByRole("button", { name: "Create", exact: true }).click();
  await guest.page.locator('dialog input[name="image"]').fill("busybox");
  await guest.page.locator('dialog input[name="name"]').fill("typed-before");
  await api("DELETE", `v1/tokens/${third.number}`);
  await guest.page.getByLabel("Token", { exact: true }).waitFor({ timeout: 2000 });
  await guest.page.getByLabel("Token", { exact: true }).fill(token);
  await guest.page.getByRole("button", { name: "Log in" }).click();
  await guest.page.locator("dialog.again").waitFor({ state: "detached" });
  assert.equal(await guest.page.locator('dialog input[name="name"]').inputValue(), "typed-before");
  await guest.page.locator("dialog").getByRole("button", { name: "Create and start" }).click();
  await guest.page.getByRole("heading", { name: "/ typed-before" }).waitFor();
  await api("DELETE", "v1/containers/typed-before?force=true");

  assert.deepEqual(faults, []);
  assert.deepEqual(strangers, [], "no request goes to another host");
  step("done");
} finally {
  await browser.close();
}
process.exit(0);
