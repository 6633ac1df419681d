import { appendFile, chmod, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { REPOSITORY, script, type Ended } from './script.js';

/** A clone with next to nothing in it, and an npm that only writes down what it was asked for. */
let clone: string;

const NPM = `#!/bin/sh
echo "$*" >>npm.log
case $1 in
  ci) mkdir -p node_modules ;;
  install) [ -d "$3" ] || exit 1 ;;
  run) mkdir -p dist agent-image/dist && : >agent-image/dist/gateway.cjs ;;
esac
`;

beforeAll(async () => {
  clone = await mkdtemp(join(tmpdir(), 'berth-setup-'));
  for (const folder of ['src', 'migrations', 'agent-image/src', 'bin']) await mkdir(join(clone, folder), { recursive: true });
  for (const file of ['package.json', 'package-lock.json', 'tsconfig.json']) await writeFile(join(clone, file), '{}');
  await cp(join(REPOSITORY, 'scripts'), join(clone, 'scripts'), { recursive: true });
  await writeFile(join(clone, 'src/main.ts'), 'export {};\n');
  await writeFile(join(clone, 'bin/npm'), NPM);
  await chmod(join(clone, 'bin/npm'), 0o755);
});
afterAll(() => rm(clone, { recursive: true, force: true }));

const setup = (...flags: string[]): Promise<Ended> =>
  script('setup', flags, {
    cwd: clone,
    env: { PATH: `${clone}/bin:${process.env['PATH']}`, DOCKER_HOST: 'unix:///nowhere/docker.sock' },
  });
const asked = async (): Promise<string[]> => {
  const log = await readFile(join(clone, 'npm.log'), 'utf8').catch(() => '');
  await rm(join(clone, 'npm.log'), { force: true });
  return log
    .trim()
    .split('\n')
    .filter(Boolean)
    .map((line) =>
      line
        .split(' ')
        .filter((word) => !word.startsWith('--'))
        .join(' '),
    );
};

test('a fresh clone is installed and built; nothing is done twice', async () => {
  expect(await setup('--engine=none')).toMatchObject({ code: 0 });
  expect(await asked()).toEqual(['ci', 'run build']);
  const again = await setup('--engine=none');
  expect(again.stderr).toBe('setup: dependencies: installed\nsetup: build: up to date\n');
  expect((await setup('--engine=none', '--quiet')).stderr).toBe('');
  expect(await asked()).toEqual([]);
});

test('a changed source is built again, a changed lockfile installed and built', async () => {
  await appendFile(join(clone, 'src/main.ts'), '// changed\n');
  await setup('--engine=none');
  expect(await asked()).toEqual(['run build']);
  await rm(join(clone, 'src/main.ts'));
  await setup('--engine=none');
  expect(await asked()).toEqual(['run build']);
  await writeFile(join(clone, 'package-lock.json'), '{"changed": true}');
  await setup('--engine=none');
  expect(await asked()).toEqual(['ci', 'run build']);
});

// npm that is run by `npm test` has the settings of .npmrc, under which it fails where the folder of --prefix is not there.
test('the ClawHub client has its folder before npm is asked to fill it', async () => {
  const { stderr } = await setup('--engine=none', '--clawhub');
  expect(await asked()).toEqual([expect.stringMatching(/^install \.cache\/clawhub clawhub@/)]);
  expect(stderr).not.toContain('could not be installed');
});

test('an engine that cannot be had is written down where it is optional', async () => {
  expect(await setup('--engine=optional')).toMatchObject({ code: 0, stderr: expect.stringContaining('without isolation') });
  const found = await readFile(join(clone, '.cache/setup.env'), 'utf8');
  expect(found).toBe("ENGINE=none\nENGINE_REASON='no container engine can be had on this machine'\n");
});

test('and is a failure where it is required, with nothing written down', async () => {
  expect(await setup()).toMatchObject({ code: 13, stderr: expect.stringContaining('no container engine') });
  await expect(readFile(join(clone, '.cache/setup.env'))).rejects.toThrow('ENOENT');
});

test('an unknown flag is refused', async () => {
  expect(await setup('--engine=maybe')).toMatchObject({ code: 2, stderr: expect.stringContaining('usage') });
});
