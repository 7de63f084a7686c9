// The console over ten thousand containers. Arguments: the server's address, an administrator's token. The line `update SECONDS` on
// standard output asks the caller to change containers, 500 times a second; it answers with how many changes it has made.
// What is measured is printed. A machine that tests runs several of them at once: what fails is SLACK times what a user is promised.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [base, token] = process.argv.slice(2);
const SLACK = 6;
const SECONDS = Number(process.env.BERTH_SCALE_SECONDS ?? 60);
const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const judge = (what, ms, promised) => {
  console.error(`console: ${what}: ${ms.toFixed(0)} ms (promised: ${promised})`);
  assert.ok(ms < promised * SLACK, `${what} took ${ms} ms`);
};

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
try {
  const context = await browser.newContext({ locale: "en-US", viewport: { width: 1280, height: 800 } });
  const page = await context.newPage();
  await page.goto(`${base}/`);
  await page.getByLabel("Token", { exact: true }).fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();

  // Within the page, from the key or the click to the frame that shows it.
  await page.evaluate(() => {
    globalThis.until = (act, done) => new Promise((resolve, reject) => {
      const begun = performance.now();
      act();
      const look = () => {
        if (done()) resolve(performance.now() - begun);
        else if (performance.now() - begun > 20_000) reject(new Error("it is not shown"));
        else requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    });
    globalThis.rows = () => [...document.querySelectorAll("main tbody tr")].filter((row) => row.querySelector("a"));
  });
  const firsts = [];
  for (let n = 0; n < 3; n += 1) {
    firsts.push(await page.evaluate(() => globalThis.until(() => { location.hash = "#/containers"; }, () => globalThis.rows().length > 10)));
    await page.evaluate(() => globalThis.until(() => { location.hash = "#/settings"; }, () => document.querySelector("h1")?.textContent === "Settings"));
  }
  judge("first row of ten thousand", median(firsts), 500);
  await page.evaluate(() => globalThis.until(() => { location.hash = "#/containers"; }, () => globalThis.rows().length > 10));
  await page.getByRole("button", { name: "All 10000" }).waitFor();
  const count = await page.locator("main tbody tr").count();
  assert.ok(count <= 200, `${count} rows are in the document`);

  const keys = [];
  for (const text of ["d1", "d12", "d123", "d2", "d23", "d234", "d3", "d34"]) {
    keys.push(await page.evaluate((typed) => globalThis.until(() => {
      const box = document.querySelector('input[type="search"]');
      box.value = typed;
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }, () => {
      const found = globalThis.rows();
      return found.length > 0 && found.every((row) => row.textContent.includes(typed));
    }), text));
  }
  judge("a key in the filter", median(keys), 100);
  await page.evaluate(() => {
    const box = document.querySelector('input[type="search"]');
    box.value = "";
    box.dispatchEvent(new Event("input", { bubbles: true }));
  });
  await page.getByRole("button", { name: "All 10000" }).waitFor();

  await page.evaluate(() => { document.querySelector("main .virtual").scrollTop = 1e9; });
  await page.getByRole("link", { name: "d0", exact: true }).waitFor();
  const after = await page.locator("main tbody tr").count();
  assert.ok(after <= 200, `${after} rows are in the document`);
  await page.evaluate(() => { document.querySelector("main .virtual").scrollTop = 0; });

  await page.evaluate(() => {
    globalThis.frames_ = [];
    let last = performance.now();
    const frame = (at) => { globalThis.frames_.push(at - last); last = at; globalThis.watching = requestAnimationFrame(frame); };
    globalThis.watching = requestAnimationFrame(frame);
  });
  console.log(`update ${SECONDS}`);
  const made = Number((await input.next()).value);
  const frames = await page.evaluate(() => { cancelAnimationFrame(globalThis.watching); return globalThis.frames_; });
  console.error(`console: ${made} updates in ${SECONDS} s, ${frames.length} frames`);
  // The first is older than the loop.
  judge("longest frame under updates", Math.max(...frames.slice(1)), 100);
  assert.ok(made >= SECONDS * 100, `only ${made} updates were made`);
  // What is seen is what is the case: half of them are paused now.
  const shown = await page.evaluate(() => globalThis.rows().slice(0, 20).map((row) => row.querySelector("a").textContent));
  assert.equal(shown.length, 20);
  // Not waitForFunction: it takes the promise of an async function for a yes.
  await page.evaluate((slack) => new Promise((resolve, reject) => {
    const states = new Map();
    const same = () => globalThis.rows().slice(0, 20).every((row) => row.querySelector(".state").textContent === states.get(row.querySelector("a").textContent));
    const ends = performance.now() + 5000 * slack;
    const look = () => {
      if (globalThis.rows().length >= 20 && same()) resolve();
      else if (performance.now() > ends) reject(new Error("the rows are not what the server says"));
      else requestAnimationFrame(look);
    };
    fetch("v1/containers/summary?sort=created&descending=true&limit=50", { headers: { "berth-csrf": localStorage.getItem("berth-csrf") } })
      .then((answer) => answer.json())
      .then((list) => { for (const each of list.items) states.set(each.name, each.state); look(); })
      .catch(reject);
  }), SLACK);
  const paused = await page.evaluate(() => globalThis.rows().slice(0, 20).filter((row) => row.querySelector(".state").textContent === "paused").length);
  assert.ok(paused > 0 && paused < 20, `${paused} of 20 are paused`);
  console.log("resume");
  await input.next();

  const tabs = [];
  for (let n = 0; n < 10; n += 1) {
    const tab = await context.newPage();
    const begun = performance.now();
    await tab.goto(`${base}/#/containers`);
    await tab.locator("main tbody tr a").first().waitFor();
    tabs.push(performance.now() - begun);
  }
  judge("the slowest of ten tabs", Math.max(...tabs), 1000);
} finally {
  await browser.close();
}
process.exit(0);
