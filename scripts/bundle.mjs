// The part of `npm run build` that tsc does not do: the gateway as one file, and the template of the embedded database.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = new URL('../', import.meta.url);

// One place says how the gateway is bundled, since the same bytes go into the agent image.
const bundled = spawnSync('bash', ['scripts/agent-image', 'bundle'], { cwd: fileURLToPath(root), stdio: 'inherit' });
if (bundled.status !== 0) process.exit(1);

// Making the template takes some five seconds, so it is kept as long as PGlite and our way of opening it stay the same.
const template = new URL('dist/src/db/pglite-template.tar.gz', root);
const stamp = new URL('dist/src/db/pglite-template.from', root);
const { PGLITE_OPTIONS, writeTemplate } = await import(new URL('dist/src/db/data-folder.js', root).href);
const manifest = readFileSync(new URL('node_modules/@electric-sql/pglite/package.json', root));
const from = createHash('sha256').update(manifest).update(JSON.stringify(PGLITE_OPTIONS)).digest('hex');
if (!existsSync(template) || !existsSync(stamp) || readFileSync(stamp, 'utf8') !== from) {
  await writeTemplate();
  writeFileSync(stamp, from);
}
