import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { REPOSITORY, docker, script } from './script.js';

/** Everything that the docker runtime takes from an instance, and a uid that no passwd entry knows. */
const PROFILE = [
  '--network=none',
  '--init',
  '--read-only',
  '--cap-drop=ALL',
  '--security-opt=no-new-privileges:true',
  '--ipc=private',
  '--user=345678:345678',
  '--memory=256m',
  '--memory-swap=256m',
  '--pids-limit=256',
  '--ulimit=nofile=1024:4096',
  '--ulimit=core=0:0',
  '--tmpfs=/tmp:size=64m,mode=1777,nosuid,nodev,noexec',
  '--tmpfs=/dev/shm:ro,size=4k,mode=0555',
  '--tmpfs=/dev/mqueue:ro,size=4k,mode=0555',
];
const TOOLS = [
  'bash',
  'sh',
  'ls',
  'cat',
  'sort',
  'find',
  'xargs',
  'grep',
  'sed',
  'awk',
  'diff',
  'patch',
  'less',
  'file',
  'ps',
  'tar',
  'gzip',
  'bzip2',
  'xz',
  'zip',
  'unzip',
  'curl',
  'git',
  'jq',
  'rg',
  'python3',
  'node',
  'npm',
];

const label = `berth-test=${randomUUID()}`;
let image: string;
let volume: string;

beforeAll(async () => {
  const built = await script('agent-image', ['build']);
  expect(built, built.stderr).toMatchObject({ code: 0, stdout: expect.stringMatching(/^berth-agent:[0-9a-f]{16}$/) });
  image = built.stdout;
  volume = await docker('volume', 'create', '--label', label);
});
afterAll(async () => {
  const left = await docker('ps', '-aq', '--filter', `label=${label}`);
  if (left) await docker('rm', '-f', ...left.split('\n'));
  await docker('volume', 'rm', '-f', volume);
});

const inside = (command: string): Promise<string> =>
  docker(
    'run',
    '--rm',
    '--label',
    label,
    ...PROFILE,
    `--mount=type=volume,source=${volume},target=/data`,
    '--entrypoint=bash',
    image,
    '-c',
    command,
  );
const layers = (ref: string): Promise<string> => docker('image', 'inspect', '--format', '{{json .RootFS.Layers}}', ref);

describe('the agent image, as an instance runs it', () => {
  test('holds every tool of a shell, Node 24 among them', async () => {
    expect(
      await inside(`for tool in ${TOOLS.join(' ')}; do command -v $tool >/dev/null || echo "no $tool"; done; node --version`),
    ).toMatch(/^v24\.\d+\.\d+$/);
  });

  test('lets a uid without a passwd entry work with git, Python and Node', async () => {
    const said = await inside(`set -e
      mkdir -p "$HOME" && cd "$HOME" && git init -q work && cd work && echo one >a
      git add a && git commit -q -m first && git log --format=%s
      python3 -c 'import json, urllib.request, sqlite3, getpass; print(json.dumps(getpass.getuser()))'
      node -p 'require("os").homedir()'
      echo text >/var/tmp/file && cat /tmp/file
      curl -fsS file:///etc/gitconfig | rg -q safe && date -d 2026-01-01 +%A`);
    expect(said.split('\n')).toEqual(['first', '"agent"', '/data/home', 'text', 'Thursday']);
  });

  test('can write to /data and /tmp and nowhere else, and runs nothing from /tmp', async () => {
    const writable = await inside(`{
        find / -path /proc -prune -o -writable ! -type l ! -type c -print 2>/dev/null
        while read -r _ at _; do [ -w "$at" ] && [ ! -c "$at" ] && echo "$at"; done </proc/mounts
      } | grep -v ^/proc | sed 's,^/data/.*,/data,' | sort -u`);
    expect(writable.split('\n')).toEqual(['/data', '/tmp']);
    expect(await inside('cp /bin/true /tmp/program; /tmp/program 2>/dev/null && echo ran || echo refused')).toBe('refused');
  });

  test("has no program that raises privileges, and a gateway that is root's and read-only", async () => {
    expect(await inside('find / -xdev -perm /6000 ! -type l 2>/dev/null || true')).toBe('');
    expect(
      await inside(
        'stat -c "%U %a" /opt/berth/gateway.cjs; grep -E "^(CapEff|NoNewPrivs|Seccomp):" /proc/self/status | tr -s "\\t" " "',
      ),
    ).toBe('root 444\nCapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2');
  });

  test('holds the bundled gateway and starts it; SIGTERM ends it with 0', async () => {
    const source = await readFile(join(REPOSITORY, 'agent-image/dist/gateway.cjs'), 'utf8');
    expect((await inside('cat /opt/berth/gateway.cjs')) === source.trimEnd()).toBe(true);
    const id = await docker('run', '-d', '--label', label, ...PROFILE, '--mount=type=volume,target=/data', image);
    // The process listens for signals a moment after it runs: its first word shows that it does.
    await expect.poll(() => docker('logs', id), { timeout: 10_000 }).toContain('"msg"');
    await docker('stop', '--time=15', id);
    expect(await docker('inspect', '--format', '{{.State.ExitCode}} {{.Config.User}} {{.Config.Healthcheck}}', id)).toBe(
      '0 345678:345678 <nil>',
    );
    await docker('rm', '-v', id);
  });
});

describe('the build', () => {
  test('does nothing when nothing has changed', async () => {
    const before = await docker('image', 'inspect', '--format', '{{.Id}}', image);
    expect(await script('agent-image', ['build'], { env: { QUIET: '1' } })).toEqual({ code: 0, stdout: image, stderr: '' });
    expect(await docker('image', 'inspect', '--format', '{{.Id}}', 'berth-agent:latest')).toBe(before);
  });

  test('makes the same layers from the same input', async () => {
    const base = await docker('image', 'inspect', '--format', '{{index .Config.Labels "berth.base"}}', image);
    const name = `berth-test-${randomUUID().slice(0, 8)}`;
    const built = await script('agent-image', ['build', '--no-cache'], { env: { IMAGE_NAME: name, BASE_IMAGE: base } });
    expect(built.stdout, built.stderr).toBe(image.replace('berth-agent', name));
    const same = (await layers(built.stdout)) === (await layers(image));
    await docker('rmi', built.stdout, `${name}:latest`);
    // On a registry's base the layer that installs packages is not the same bytes each time (see scripts/agent-image).
    expect(same).toBe(base.startsWith('berth-agent-base:'));
  });

  test('makes the closure image, which starts the same gateway', async () => {
    expect((await script('agent-image', ['build', '--closure'])).stdout).toBe('berth-agent:closure');
    const args = ['run', '--rm', '--label', label, ...PROFILE, '--entrypoint=/bin/sh', 'berth-agent:closure', '-c'];
    expect(
      await docker(
        ...args,
        'node -p process.version && ls /opt/berth && cat /proc/self/status >/dev/null && echo $BERTH_DATA_DIR',
      ),
    ).toBe(`${process.version}\ngateway.cjs\n/data`);
    const settings = (ref: string): Promise<string> =>
      docker('image', 'inspect', '--format', '{{.Config.User}} {{json .Config.Entrypoint}} {{.Config.WorkingDir}}', ref);
    expect(await settings('berth-agent:closure')).toBe(await settings(image));
  });
});
