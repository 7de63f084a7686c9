// Bundles the console into dist/: hashed files, each compressed, with an index and a list of third-party licences.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const dist = "dist";
for (const entry of existsSync(dist) ? readdirSync(dist) : []) if (entry !== ".gitignore") rmSync(`${dist}/${entry}`, { recursive: true });
mkdirSync(`${dist}/assets`, { recursive: true });

execFileSync("node_modules/.bin/openapi-typescript", ["../docs/openapi.json", "-o", "src/schema.ts"], { stdio: "ignore" });
execFileSync("node_modules/.bin/tsc", ["--noEmit"], { stdio: "inherit" });

const result = await build({
  entryPoints: ["src/main.tsx"],
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  loader: { ".css": "text", ".tsv": "text" },
  outdir: `${dist}/assets`,
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  legalComments: "none",
  metafile: true,
  write: false,
});

// The licences of what is in the bundle, by package.
const packages = new Set();
for (const input of Object.keys(result.metafile.inputs)) {
  const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
  if (found) packages.add(found[1]);
}
const licences = [...packages].sort().map((name) => {
  const folder = `node_modules/${name}`;
  const about = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
  const text = file ? readFileSync(`${folder}/${file}`, "utf8").trim() : "";
  return `${name} ${about.version} (${about.license})\n\n${text}\n`;
});

// What the program itself is linked of: the crates that it needs at run time, whose they are, and each licence once.
function ofTheProgram() {
  const told = execFileSync("cargo", ["metadata", "--locked", "--format-version", "1", "--manifest-path", "../Cargo.toml"], { maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "ignore"] });
  const { packages: all, resolve } = JSON.parse(told);
  const about = new Map(all.map((each) => [each.id, each]));
  const needs = new Map(resolve.nodes.map((each) => [each.id, each.deps.filter((dep) => dep.dep_kinds.some(({ kind }) => kind === null)).map((dep) => dep.pkg)]));
  const found = new Set();
  const walk = (id) => { if (!found.has(id)) { found.add(id); needs.get(id)?.forEach(walk); } };
  walk(all.find((each) => each.name === "berth").id);
  const crates = [...found].map((id) => about.get(id)).filter((each) => each.source).sort((a, b) => a.name.localeCompare(b.name));
  const texts = new Map();
  const list = crates.map((each) => {
    const folder = each.manifest_path.replace(/[^/]*$/, "");
    const owners = new Set();
    for (const file of readdirSync(folder).filter((name) => /^(licen[cs]e|copying|copyright|notice)/i.test(name) && statSync(folder + name).isFile())) {
      const text = readFileSync(folder + file, "utf8").trim();
      for (const line of text.match(/^\s*(copyright|\(c\)|©).*\d{4}.*$/gim) ?? []) owners.add(line.trim());
      const kind = /apache license\s+version 2/i.test(text) ? "Apache-2.0" : /permission is hereby granted, free of charge/i.test(text) ? "MIT" : each.license ?? file;
      if (!texts.has(kind)) texts.set(kind, text);
    }
    return `${each.name} ${each.version} (${each.license ?? "see below"})${[...owners].map((line) => `\n  ${line}`).join("")}`;
  });
  return `The program\n\n${list.join("\n")}\n\n${[...texts].map(([kind, text]) => `---- ${kind}\n\n${text}\n`).join("\n")}`;
}

const files = new Map();
for (const output of result.outputFiles) files.set(output.path.split("/").pop(), output.contents);
const hash = (bytes) => createHash("sha256").update(bytes).digest("hex").slice(0, 8).toUpperCase();
const add = (name, extension, bytes) => {
  const file = `${name}-${hash(bytes)}.${extension}`;
  files.set(file, bytes);
  return file;
};
const style = add("style", "css", readFileSync("src/style.css"));
const icon = add("icon", "svg", readFileSync("src/icon.svg"));
add("licences", "txt", Buffer.from(`The console\n\n${licences.join("\n----\n\n")}\n${ofTheProgram()}`));
const licenceFile = [...files.keys()].find((name) => name.startsWith("licences-"));
const main = [...files.keys()].find((name) => name.startsWith("main-"));
const index = readFileSync("src/index.html", "utf8")
  .replaceAll("%MAIN%", main).replaceAll("%STYLE%", style).replaceAll("%ICON%", icon).replaceAll("%LICENCES%", licenceFile);
writeFileSync(`${dist}/index.html`, index);

// In bytes as a browser gets them: the first page, the chunks that pages load when they need them, and all files.
const limits = { first: 90 * 1024, all: 350 * 1024 };
const chunkLimits = new Map([["chart", 30 * 1024], ["terminal", 115 * 1024]]);
const output = (name) => Object.entries(result.metafile.outputs).find(([path]) => path.endsWith(`/${name}`))?.[1];
const atFirst = new Set([main, style, icon]);
for (const name of atFirst) {
  for (const each of output(name)?.imports ?? []) if (each.kind === "import-statement") atFirst.add(each.path.split("/").pop());
}
let total = 0;
let first = gzipSync(Buffer.from(index), { level: 9 }).length;
for (const [name, bytes] of files) {
  const packed = gzipSync(bytes, { level: 9 });
  writeFileSync(`${dist}/assets/${name}.gz`, packed);
  total += packed.length;
  const kind = name.split("-")[0];
  if (atFirst.has(name)) first += packed.length;
  if (packed.length > (chunkLimits.get(kind) ?? Infinity)) throw new Error(`${name} has ${packed.length} bytes, compressed; the limit is ${chunkLimits.get(kind)}`);
  chunkLimits.delete(kind);
  console.log(`${String(packed.length).padStart(8)}  ${name}`);
}
console.log(`${String(total).padStart(8)}  in all, compressed`);
for (const [what, bytes] of [["first", first], ["all", total]]) {
  if (chunkLimits.size) throw new Error(`no chunk of its own: ${[...chunkLimits.keys()].join(", ")}`);
  if (bytes > limits[what]) throw new Error(`${what}: ${bytes} bytes, compressed; the limit is ${limits[what]}`);
}
