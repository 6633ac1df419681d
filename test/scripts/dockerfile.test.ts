import { existsSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { REPOSITORY, run } from './script.js';

// The image is built where there is a registry to have its base from. Here, what the engine would be given is built as it would be there.
const COPY = /^COPY (?!--from)(.+) \S+$/gm;
const TEMPLATE = 'dist/src/db';
let context: string;

beforeAll(async () => {
  context = await mkdtemp(join(tmpdir(), 'berth-image-'));
  const [all, ...taken] = (await readFile(join(REPOSITORY, '.dockerignore'), 'utf8')).trim().split('\n');
  expect(all).toBe('*');
  for (const path of taken.map((line) => line.slice(1))) {
    await cp(join(REPOSITORY, path), join(context, path), { recursive: true });
  }
});
afterAll(() => rm(context, { recursive: true, force: true }));

test('all that the Dockerfile copies is in what the engine is given', async () => {
  const dockerfile = await readFile(join(REPOSITORY, 'Dockerfile'), 'utf8');
  const copied = [...dockerfile.matchAll(COPY)].flatMap(([, paths]) => paths!.split(' '));
  expect(copied).toContain('src');
  expect(copied.filter((path) => !existsSync(join(context, path)))).toEqual([]);
});

test('and suffices to build a Berth that runs, and its command line', { timeout: 120_000 }, async () => {
  await symlink(join(REPOSITORY, 'node_modules'), join(context, 'node_modules'));
  // Made already, where this clone is built: it takes five seconds.
  if (existsSync(join(REPOSITORY, TEMPLATE))) await cp(join(REPOSITORY, TEMPLATE), join(context, TEMPLATE), { recursive: true });
  expect(await run('npm', ['run', '--silent', 'build'], { cwd: context })).toMatchObject({ code: 0 });
  const berth = await run(process.execPath, ['dist/berth.mjs'], { cwd: context, env: { PORT: 'none' } });
  expect(berth).toMatchObject({ code: 2, stderr: expect.stringContaining('PORT') });
  const command = await run(process.execPath, ['scripts/berth.mjs'], { cwd: context });
  expect(command.stdout + command.stderr).toContain('vault rotate');
});
