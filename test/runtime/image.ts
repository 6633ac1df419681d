import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, copyFile, mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const entry = new URL('entry.mjs', import.meta.url).pathname;

/**
 * The image whose instances run `entry.mjs`: this very Node, a shell and what they are linked against, nothing else. Made in
 * about a second where it is not there yet, without any registry.
 */
export async function testImage(dockerHost?: string): Promise<string> {
  const digest = createHash('sha256')
    .update(await readFile(entry))
    .update(process.version)
    .digest('hex')
    .slice(0, 12);
  const tag = `berth-runtime-test:${digest}`;
  const host = dockerHost ? ['-H', dockerHost] : [];
  const there = await run('docker', [...host, 'image', 'inspect', tag]).catch(() => undefined);
  if (!there) await build(tag, host);
  return tag;
}

async function build(tag: string, host: string[]): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), 'berth-image-'));
  try {
    await addProgram(root, process.execPath, '/usr/bin/node');
    await addProgram(root, '/bin/sh', '/bin/sh');
    await copyFile(entry, join(root, 'entry.mjs'));
    for (const folder of ['tmp', 'data']) {
      await mkdir(join(root, folder));
      await chmod(join(root, folder), 0o1777);
    }
    const changes = ['ENV PATH=/usr/bin:/bin', 'ENTRYPOINT ["node","/entry.mjs"]', 'LABEL berth.test=1'];
    const args = changes.flatMap((change) => ['-c', change]);
    await run('tar', ['--numeric-owner', '--owner=0', '--group=0', '-C', root, '-cf', `${root}.tar`, '.']);
    await run('docker', [...host, 'import', ...args, `${root}.tar`, tag]);
  } finally {
    await rm(root, { recursive: true, force: true });
    await rm(`${root}.tar`, { force: true });
  }
}

async function addProgram(root: string, from: string, to: string): Promise<void> {
  const { stdout } = await run('ldd', [from]);
  const libraries = [...stdout.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1]!);
  for (const [source, target] of [[from, to] as const, ...libraries.map((path) => [path, path] as const)]) {
    await mkdir(join(root, dirname(target)), { recursive: true });
    await copyFile(source, join(root, target));
    await chmod(join(root, target), 0o755);
  }
}
