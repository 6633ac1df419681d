// `npm run build`: Berth as one file, the gateway as one file, and the template of the embedded database.
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PGLITE_OPTIONS, writeTemplate } from '../../src/db/data-folder.js';
import { bundleBerth, bundleGateway } from './bundle.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const DIST = join(ROOT, 'dist');

await bundleBerth(DIST);
await bundleGateway(join(ROOT, 'agent-image/dist/gateway.cjs'));

// Making the template takes some five seconds, so it is kept as long as PGlite and our way of opening it stay the same.
const template = join(DIST, 'src/db/pglite-template.tar.gz');
const stamp = join(DIST, 'src/db/pglite-template.from');
const manifest = await readFile(join(ROOT, 'node_modules/@electric-sql/pglite/package.json'));
const from = createHash('sha256').update(manifest).update(JSON.stringify(PGLITE_OPTIONS)).digest('hex');
if (!existsSync(template) || (await readFile(stamp, 'utf8').catch(() => '')) !== from) {
  await rm(stamp, { force: true });
  await mkdir(join(DIST, 'src/db'), { recursive: true });
  await writeTemplate(template);
  await writeFile(stamp, from);
}
