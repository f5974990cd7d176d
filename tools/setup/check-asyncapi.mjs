// Checks docs/asyncapi.json with AsyncAPI's own parser: `make asyncapi-check`.

import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
// Severities 0 and 1 are errors and warnings; a newer version of AsyncAPI is information.
const problems = diagnostics.filter(({ severity }) => severity < 2);
for (const { code, message, path } of problems) console.error(code, message, path.join("."));
if (!document || problems.length) process.exit(1);
console.log(`${document.allChannels().all().length} endpoints, ${document.allMessages().all().length} messages`);
