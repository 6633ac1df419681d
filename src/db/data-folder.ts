import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { access, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PGliteOptions } from '@electric-sql/pglite';
import type { Log } from '../lib/log.js';

/** How Berth runs PGlite: with these it lives in 170-180 MB instead of 310. 64 MB of first memory do not suffice. */
export const PGLITE_OPTIONS: PGliteOptions = { postgresqlconf: ['shared_buffers = 16MB'], initialMemory: 128 * 1024 * 1024 };

/**
 * An empty database made at build time; where it is missing (from source), `initdb` runs instead, which takes some five
 * seconds.
 */
const TEMPLATE = fileURLToPath(new URL('./pglite-template.tar.gz', import.meta.url));

/**
 * Makes `folder` a database folder unless it is one. In a process of its own, since making one takes 700 MB that Node would
 * never give back, and under another name first, so that a kill half-way leaves no half a database.
 */
export async function makeDataFolder(folder: string, log: Log, template: string = TEMPLATE): Promise<void> {
  await removeLeftovers(folder);
  if (await exists(join(folder, 'PG_VERSION'))) return;
  const began = performance.now();
  const made = `${folder}.new-${randomBytes(4).toString('hex')}`;
  await runInitdb(made, (await exists(template)) ? template : '');
  await rename(made, folder);
  log.info({ folder, ms: Math.round(performance.now() - began) }, 'made the embedded database');
}

/** Writes the template that `makeDataFolder` starts from; a build step. */
export async function writeTemplate(file: string = TEMPLATE): Promise<void> {
  await rm(file, { force: true });
  await runInitdb('', '', file);
}

const CHILD = `
const [module, options, folder, template, dump] = process.argv.slice(1);
const { PGlite } = await import(module);
const { readFile, writeFile } = await import('node:fs/promises');
const loadDataDir = template ? new Blob([await readFile(template)]) : undefined;
const lite = await PGlite.create(folder || undefined, { ...JSON.parse(options), loadDataDir });
if (dump) await writeFile(dump, Buffer.from(await (await lite.dumpDataDir('gzip')).arrayBuffer()));
await lite.close();
`;

async function runInitdb(folder: string, template: string, dump = ''): Promise<void> {
  const args = [import.meta.resolve('@electric-sql/pglite'), JSON.stringify(PGLITE_OPTIONS), folder, template, dump];
  const child = spawn(process.execPath, ['--input-type=module', '--eval', CHILD, '--', ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: {},
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said = (said + text).slice(-2_000)));
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  if (code !== 0) throw new Error(`the embedded database could not be made (${signal ?? `exit ${code}`}): ${said.trim()}`);
}

async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(dirname(folder));
  const left = names.filter((name) => name.startsWith(`${basename(folder)}.new-`));
  await Promise.all(left.map((name) => rm(join(dirname(folder), name), { recursive: true, force: true })));
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
