// Bundles the console into dist/: hashed files, each compressed, with an index and a list of third-party licences.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
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
add("licences", "txt", Buffer.from(licences.join("\n----\n\n")));
const licenceFile = [...files.keys()].find((name) => name.startsWith("licences-"));
const main = [...files.keys()].find((name) => name.startsWith("main-"));
const index = readFileSync("src/index.html", "utf8")
  .replaceAll("%MAIN%", main).replaceAll("%STYLE%", style).replaceAll("%ICON%", icon).replaceAll("%LICENCES%", licenceFile);
writeFileSync(`${dist}/index.html`, index);

let total = 0;
for (const [name, bytes] of files) {
  const packed = gzipSync(bytes, { level: 9 });
  writeFileSync(`${dist}/assets/${name}.gz`, packed);
  total += packed.length;
  console.log(`${String(packed.length).padStart(8)}  ${name}`);
}
console.log(`${String(total).padStart(8)}  in all, compressed`);
