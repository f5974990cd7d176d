// Bundles main.js of a folder into bundle.js, with the compilers that the bundlers of Vue and Svelte use.
// node bundle_page.mjs FOLDER ENTRY

import { readFile } from "node:fs/promises";
import { build } from "esbuild";
import { compile } from "svelte/compiler";
import { compileScript, parse } from "vue/compiler-sfc";

const vue = {
  name: "vue",
  setup({ onLoad }) {
    onLoad({ filter: /\.vue$/ }, async ({ path }) => {
      const { descriptor, errors } = parse(await readFile(path, "utf8"), { filename: path });
      if (errors.length) throw errors[0];
      return { contents: compileScript(descriptor, { id: path, inlineTemplate: true }).content };
    });
  },
};

const svelte = {
  name: "svelte",
  setup({ onLoad }) {
    onLoad({ filter: /\.svelte$/ }, async ({ path }) => {
      const { js, warnings } = compile(await readFile(path, "utf8"), { filename: path, dev: true });
      if (warnings.length) throw new Error(warnings.map(String).join("\n"));
      return { contents: js.code };
    });
  },
};

const [folder, entry] = process.argv.slice(2);
await build({
  absWorkingDir: folder,
  entryPoints: [entry],
  outfile: `${folder}/bundle.js`,
  bundle: true,
  format: "esm",
  jsx: "automatic",
  jsxDev: true,
  alias: { "react-native": "react-native-web" },
  conditions: ["browser", "development"],
  define: {
    "process.env.NODE_ENV": '"development"',
    __VUE_OPTIONS_API__: "true",
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
  plugins: [vue, svelte],
  logLevel: "error",
});
