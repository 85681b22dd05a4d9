#!/usr/bin/env node
// The npm compiler behind the command line of native solc, as far as forge, py-solc-x and Ape use it:
// `--version`, and `--standard-json [file]` with path options that are accepted and not needed.
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require(require.resolve("solc", { paths: [path.join(__dirname, ".."), process.cwd()] }));

const args = process.argv.slice(2);
if (args.includes("--version")) {
  console.log("solc, the solidity compiler commandline interface\nVersion: " + solc.version());
  process.exit(0);
}
const skipsValue = new Set(["--allow-paths", "--base-path", "--include-path"]);
let file = null;
for (let i = 0; i < args.length; i++) {
  if (skipsValue.has(args[i])) i++;
  else if (!args[i].startsWith("-")) file = args[i];
}
if (!args.includes("--standard-json")) {
  console.error("solc.js: only --version and --standard-json are supported");
  process.exit(2);
}
const roots = [process.cwd(), path.join(process.cwd(), "node_modules")];
const readImport = (name) => {
  for (const root of roots) {
    const candidate = path.join(root, name);
    if (fs.existsSync(candidate)) return { contents: fs.readFileSync(candidate, "utf8") };
  }
  return { error: "file not found: " + name };
};
console.log(solc.compile(fs.readFileSync(file ?? 0, "utf8"), { import: readImport }));
