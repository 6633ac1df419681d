import { execFile } from 'node:child_process';
import { createServer, type Server } from 'node:net';
import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { instanceOf, python, say, shell, type Tenant, tenant } from './inside.js';

const run = promisify(execFile);

let app: TestApp;
let eve: Tenant;
let bob: Tenant;
let open: Tenant;
/** Everything that reached a service of the host. */
const visits: string[] = [];
const services: Server[] = [];
let anywhere: number;
let loopback: number;

beforeAll(async () => {
  app = await startApp({ runtime: 'docker' });
  anywhere = await service('0.0.0.0');
  loopback = await service('127.0.0.1');
  await service('\0berth-test-abstract');
  // A port that the egress proxy allows, at an address where no other service of the host is in the way.
  await service('127.0.0.77', 80);
  [eve, bob, open] = await Promise.all([
    tenant(app, { tier: 'free' }),
    tenant(app, { tier: 'business' }),
    tenant(app, { network: { mode: 'open' } }),
  ]);
});

afterAll(async () => {
  for (const server of services) server.close();
  await app.stop();
});

/** A service of the host that notes who comes. */
async function service(at: string, port = 0): Promise<number> {
  const server = createServer((socket) => {
    visits.push(`${at}:${port}`);
    socket.on('error', () => undefined).end('hello\n');
  });
  services.push(server);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    if (at.startsWith('\0')) server.listen(at, resolve);
    else server.listen(port, at, resolve);
  });
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

function hostAddresses(): string[] {
  return Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address));
}

const CONNECT = `
import socket, errno
def attempt(family, kind, address):
    try:
        with socket.socket(family, kind) as s:
            s.settimeout(2)
            s.connect(address)
            return 'open'
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def tcp(host, port):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    return attempt(family, socket.SOCK_STREAM, (host, port))
`;

describe('from inside an instance', () => {
  test('no address leads anywhere: not a neighbour, the host, the metadata service, a resolver or the internet', async () => {
    const targets = [
      ...hostAddresses().flatMap((host) => [
        [host, anywhere],
        [host, loopback],
        [host, Number(new URL(app.url).port)],
      ]),
      ['127.0.0.77', 80],
      ['172.17.0.1', 2375],
      ['172.17.0.2', 18_789],
      ['169.254.169.254', 80],
      ['fd00:ec2::254', 80],
      ['192.0.2.1', 53],
      ['8.8.8.8', 53],
      ['1.1.1.1', 443],
      ['2606:4700:4700::1111', 443],
    ];
    const seen = await python(
      app,
      eve,
      `${CONNECT}
def name(host):
    try: return socket.getaddrinfo(host, 443)[0][4][0]
    except OSError as error: return 'unknown'
def datagram(host):
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b'x', (host, 53)); return 'sent'
    except OSError as error: return errno.errorcode[error.errno]
def make(family, kind, protocol):
    try: socket.socket(family, kind, protocol).close(); return 'made'
    except OSError as error: return errno.errorcode[error.errno]
print(json.dumps({
    'tcp': {f'{host} {port}': tcp(host, port) for host, port in GIVEN['targets']},
    'names': {host: name(host) for host in ['example.com', 'metadata.google.internal', 'host.docker.internal', 'berth']},
    'datagrams': {host: datagram(host) for host in ['8.8.8.8', '169.254.169.254', '172.17.0.1']},
    'abstract': attempt(socket.AF_UNIX, socket.SOCK_STREAM, '\\0berth-test-abstract'),
    'raw': make(socket.AF_INET, socket.SOCK_RAW, 1),
    'packet': make(17, socket.SOCK_RAW, 3),
    'families': [family for family in range(64) if any(make(family, kind, 0) == 'made' for kind in (1, 2, 3, 5))],
    'interfaces': [name for _, name in socket.if_nameindex()],
}))`,
      { targets },
    );
    expect(
      Object.entries(seen.tcp).filter(([, result]) => !/^E(NETUNREACH|CONNREFUSED|ADDRNOTAVAIL|INVAL)$/.test(result as string)),
    ).toEqual([]);
    expect(new Set(Object.values(seen.names))).toEqual(new Set(['unknown']));
    expect(new Set(Object.values(seen.datagrams))).toEqual(new Set(['ENETUNREACH']));
    expect(seen).toMatchObject({ abstract: 'ECONNREFUSED', raw: 'EPERM', packet: 'EPERM', interfaces: ['lo'] });
    // Unix, IPv4, IPv6, netlink. Others have no network namespace (vsock leads to the hypervisor) or no use here.
    expect(seen.families).toEqual([1, 2, 10, 16]);
    expect(visits).toEqual([]);
  });

  test.each(['none', 'open'])('through the proxy, with the network policy %s, neither', async (mode) => {
    const who = mode === 'open' ? open : eve;
    const hosts = [
      '127.0.0.77',
      '127.0.0.1',
      '0.0.0.0',
      '10.0.0.1',
      '172.17.0.1',
      '192.168.1.1',
      '100.64.0.1',
      '169.254.169.254',
      '224.0.0.1',
      '255.255.255.255',
      ...hostAddresses(),
      '::1',
      '::',
      '::ffff:127.0.0.77',
      '::127.0.0.77',
      '64:ff9b::7f00:4d',
      'fd00:ec2::254',
      'fe80::1',
      '2002:7f00:4d::1',
      'localhost',
      'localhost.',
      'LOCALHOST',
      'metadata.google.internal',
      '2130706509',
      '0x7f00004d',
      '0177.0.0.77',
      '127.77',
      '①②⑦.0.0.77',
      'berth',
      '',
    ];
    const seen: Record<string, string> = await python(
      app,
      who,
      `${CONNECT}
def ask(text):
    with socket.create_connection(('127.0.0.1', 3128), 10) as s:
        s.sendall(text.encode())
        return s.recv(4096).decode('utf8', 'replace').split('\\r\\n')[0]
out = {}
for host in GIVEN:
    at = f'[{host}]' if ':' in host else host
    for port in (80, 443): out[f'CONNECT {at}:{port}'] = ask(f'CONNECT {at}:{port} HTTP/1.1\\r\\nHost: {at}\\r\\n\\r\\n')
    out[f'GET {at}'] = ask(f'GET http://{at}/ HTTP/1.1\\r\\nHost: {at}\\r\\nConnection: close\\r\\n\\r\\n')
print(json.dumps(out))`,
      hosts,
    );
    expect(Object.keys(seen).length).toBeGreaterThan(60);
    expect(Object.entries(seen).filter(([, status]) => !/^HTTP\/1\.1 (4\d\d|502) /.test(status))).toEqual([]);
    expect(visits).toEqual([]);
  });

  test('nothing of the host, of Berth or of another tenant is there to read', async () => {
    await shell(app, bob, 'echo bobs-secret-notes > notes.txt; sleep 0.1');
    const own = await instanceOf(app, eve);
    const other = await instanceOf(app, bob);
    const seen = await python(
      app,
      eve,
      `
import os, glob
def there(path):
    try: os.stat(path); return True
    except OSError as error: return False
found = []
for top, folders, files in os.walk('/'):
    if top.startswith(('/proc', '/sys')): folders[:] = []; continue
    found += [os.path.join(top, f) for f in files if f.endswith(('.sock', '.key')) or f == 'notes.txt']
print(json.dumps({
    'there': [path for path in GIVEN if there(path)],
    'found': found,
    'link': sorted(os.listdir('/run/berth')),
    'processes': sorted({open(f'{p}/comm').read().strip() for p in glob.glob('/proc/[0-9]*') if there(p)}),
    'uids': sorted({os.stat(p).st_uid for p in glob.glob('/proc/[0-9]*') if there(p)}),
    'mounts': [line.split()[4] for line in open('/proc/self/mountinfo') if ' - ext4 ' in line or ' - overlay ' in line],
}))`,
      [
        '/var/run/docker.sock',
        '/run/docker.sock',
        '/run/containerd',
        app.dataDir,
        join(app.dataDir, 'link', other.id),
        '/var/lib/docker',
        '/.dockerenv-host',
      ],
    );
    expect(seen.there).toEqual([]);
    expect(seen.found.filter((path: string) => !path.startsWith('/run/berth/'))).toEqual([]);
    expect(seen.link).toEqual([expect.stringMatching(/^p[0-9a-f]+\.sock$/), 'token']);
    expect(seen.processes).toEqual(expect.arrayContaining(['python3']));
    expect(seen.processes.filter((name: string) => !/^(docker-init|node|MainThread|bash|python3)$/.test(name))).toEqual([]);
    expect(seen.uids).toHaveLength(1);
    expect(own.id).not.toBe(other.id);
  });

  test('nothing is writable but /data and /tmp, and nobody can become more than it is', async () => {
    const seen = await python(
      app,
      eve,
      `
import os, ctypes, errno, subprocess
SKIP = ('/proc/%d' % os.getpid(), '/data', '/tmp')
writable = []
for top, folders, files in os.walk('/', followlinks=False):
    folders[:] = [f for f in folders if not os.path.islink(os.path.join(top, f))]
    if top == '/proc': folders[:] = [f for f in folders if not f.isdigit() and f not in ('self', 'thread-self')]
    if top.startswith(('/data', '/tmp')): folders[:] = []; continue
    for path in [top] + [os.path.join(top, f) for f in files]:
        if not os.path.islink(path) and os.access(path, os.W_OK): writable.append(path)
def write(path):
    try:
        with open(path, 'w') as f: f.write('1')
        return 'written'
    except OSError as error: return errno.errorcode[error.errno]
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*args):
    return 'done' if libc.syscall(*args) >= 0 else errno.errorcode[ctypes.get_errno()]
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)
print(json.dumps({
    'writable': writable,
    'writes': {path: write(path) for path in ['/run/berth/x', '/run/berth/token', '/etc/passwd', '/dev/shm/x', '/dev/mqueue/x', '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/sys/kernel/uevent_helper', '/opt/berth/gateway.cjs']},
    'status': {name: status[name].strip() for name in ['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp', 'Groups']},
    'unshare': syscall(272, 0x10000000),
    'mount': syscall(165, b'none', b'/tmp', b'tmpfs', 0, None),
    'setuid': syscall(105, 0),
    'ptrace': syscall(101, 16, os.getppid(), 0, 0),
    'io_uring': syscall(425, 8, ctypes.create_string_buffer(256)),
    'userfaultfd': syscall(323, 1),
    'perf': syscall(298, ctypes.create_string_buffer(256), 0, -1, -1, 0),
    'keyctl': syscall(250, 0, -3, 1),
    'bpf': syscall(321, 0, 0, 0),
    'mknod': syscall(259, -100, b'/tmp/kmsg', 0o020600, 0x10b),
    'devices': sorted(f for f in os.listdir('/dev') if f not in ('fd', 'stdin', 'stdout', 'stderr', 'core')),
    'run': subprocess.run('cp /bin/true /tmp/x 2>&1 && /tmp/x; echo $?', shell=True, capture_output=True, text=True).stdout.strip(),
    'setuid programs': subprocess.run('find / -xdev -perm /6000 -type f 2>/dev/null', shell=True, capture_output=True, text=True).stdout,
}))`,
    );
    // Devices that keep nothing, files that the engine has covered with /dev/null or that take watches only, and the way to Berth.
    const harmless =
      /^(\/dev\/(full|null|random|tty|urandom|zero|ptmx|pts\/.*)|\/proc\/(keys|timer_list|pressure\/\w+)|\/run\/berth\/\w+\.sock)$/;
    expect(seen.writable.filter((path: string) => !harmless.test(path))).toEqual([]);
    expect(Object.entries(seen.writes).filter(([, result]) => !['EROFS', 'EACCES', 'ENOENT'].includes(result as string))).toEqual(
      [],
    );
    const none = '0000000000000000';
    expect(seen.status).toEqual({
      CapInh: none,
      CapPrm: none,
      CapEff: none,
      CapBnd: none,
      CapAmb: none,
      NoNewPrivs: '1',
      Seccomp: '2',
      Groups: expect.any(String),
    });
    for (const call of ['unshare', 'mount', 'setuid', 'ptrace', 'io_uring', 'userfaultfd', 'perf', 'keyctl', 'bpf', 'mknod'])
      expect([call, seen[call]]).toEqual([call, expect.stringMatching(/^(EPERM|EACCES)$/)]);
    expect(seen.devices).toEqual(['full', 'mqueue', 'null', 'ptmx', 'pts', 'random', 'shm', 'tty', 'urandom', 'zero']);
    expect(seen.run).toBe('126');
    expect(seen['setuid programs']).toBe('');
  });
});

describe('the filter of kernel calls', () => {
  test.runIf(process.arch === 'x64')(
    'ends a program that uses those for 32 bits, which would hide what they ask for',
    async () => {
      const seen = await python(
        app,
        eve,
        `
import subprocess, sys
code = '''
import ctypes, mmap
m = mmap.mmap(-1, 4096, prot=7)
m.write(bytes.fromhex('b814000000cd80c3')) # getpid
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()
'''
print(subprocess.run([sys.executable, '-c', code]).returncode)`,
      );
      expect(seen).toBe(-31);
    },
  );

  test('lets the programs work that an agent has', async () => {
    const said = await shell(
      app,
      bob,
      `set -e
rm -rf work && mkdir work && cd work && git init -q . && echo one > f && git add f && git commit -qm first && git log --oneline | wc -l
git clone -q . ../copy-$$ && ls ../copy-$$
seq 1000 | xargs -P 4 -n 10 echo | sort | tail -1 | wc -w
tar cz f | tar tz
rg -c one f; jq -n 1+1; curl -s file://$PWD/f; find / -xdev -name gateway.cjs 2>/dev/null || true; ps -o comm= -p 1
node -e 'new (require("worker_threads").Worker)("console.log(require(\\"os\\").networkInterfaces().lo.length > 0)", { eval: true })'
node -e 'require("child_process").execFile("true", () => require("fs").promises.readFile("f", "utf8").then((t) => process.stdout.write(t)))'
python3 - <<'E'
import asyncio, sqlite3, subprocess, threading, tempfile
threads = [threading.Thread(target=lambda: None) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sqlite3.connect('d.db').execute('select 1').fetchone()[0], subprocess.run(['echo', 'out'], capture_output=True, text=True).stdout.strip())
async def main():
    p = await asyncio.create_subprocess_exec('true'); print(await p.wait())
asyncio.run(main())
print(tempfile.NamedTemporaryFile().name[:5])
E`,
    );
    expect(said.split('\n')).toEqual([
      '1',
      'f',
      '10',
      'f',
      '1',
      '2',
      'one',
      '/opt/berth/gateway.cjs',
      'docker-init',
      'true',
      'one',
      '1 out',
      '0',
      '/tmp/',
    ]);
  });
});

describe('from outside', () => {
  test('docker inspect of container, image and volume shows no token, key or secret; the log files are bounded', async () => {
    for (const who of [eve, bob]) {
      const { id, container } = await instanceOf(app, who);
      const token = (await readFile(join(app.dataDir, 'link', id, 'token'), 'utf8')).trim();
      expect(token.length).toBeGreaterThan(40);
      const { stdout: shown } = await run('docker', ['inspect', container]);
      const [inspected] = JSON.parse(shown);
      const [image, history, volume, logs] = await Promise.all([
        run('docker', ['image', 'inspect', inspected.Image]),
        run('docker', ['history', '--no-trunc', inspected.Image]),
        run('docker', ['volume', 'inspect', `berth-${who.agent.deploymentId}`]),
        run('docker', ['logs', container]),
      ]);
      const all = [
        shown,
        image.stdout,
        history.stdout,
        volume.stdout,
        logs.stdout,
        logs.stderr,
        await shell(app, who, 'cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr "\\0" "\\n"'),
      ].join('\n');
      const secrets = [
        token,
        who.key,
        who.agent.key,
        app.adminKey,
        app.masterKey.toString('hex'),
        app.masterKey.toString('base64'),
      ];
      for (const secret of secrets) expect(all.includes(secret)).toBe(false);
      expect(inspected.Config.Env.map((line: string) => line.split('=')[0]).toSorted()).toEqual([
        'BERTH_DATA_DIR',
        'BERTH_INSTANCE',
        'BERTH_LINK_DIR',
        'BERTH_SHELL',
        'HOME',
        'LANG',
        'LOGNAME',
        'NODE_OPTIONS',
        'NODE_USE_ENV_PROXY',
        'PATH',
        'PYTHONDONTWRITEBYTECODE',
        'USER',
      ]);
      expect(inspected.HostConfig).toMatchObject({
        NetworkMode: 'none',
        Privileged: false,
        PidMode: '',
        IpcMode: 'private',
        UTSMode: '',
        LogConfig: { Type: 'json-file', Config: { 'max-size': '5m', 'max-file': '2' } },
      });
      expect(
        inspected.Mounts.map((mount: { Destination: string; RW: boolean }) => [mount.Destination, mount.RW]).toSorted(),
      ).toEqual([
        ['/data', true],
        ['/run/berth', false],
      ]);
    }
  });

  test('every deployment has a uid of its own, also two of one user', async () => {
    await app.agent(bob, 'alone', { isolation: 'dedicated' });
    await app.ready(bob);
    const { instances } = await app.runtime.list();
    const users = await Promise.all(
      instances.map(async ({ name }) => (await run('docker', ['inspect', '-f', '{{.Config.User}}', name])).stdout.trim()),
    );
    expect(users).toHaveLength(4);
    expect(new Set(users).size).toBe(4);
    expect(users.filter((user) => Number(user.split(':')[0]) < 100_000)).toEqual([]);
    const modes = await run('stat', ['-c', '%a', app.dataDir, app.config.linkDir]);
    expect(modes.stdout.split('\n').slice(0, 2)).toEqual(['700', '700']);
  });
});

describe('what an instance does to itself', () => {
  /** The neighbour talks while `attack` runs; answers what the attack said. */
  async function meanwhile(attack: Promise<string>): Promise<string> {
    let over = false;
    const ended = attack.finally(() => (over = true));
    for (let n = 0; n < 5 || !over; n++) expect(await say(app, bob, `still there ${n}?`)).toBe(`You said: still there ${n}?`);
    return ended;
  }

  test('a fork bomb', async () => {
    const said = await meanwhile(shell(app, eve, 'bomb() { bomb | bomb & }; bomb; sleep 100', 4));
    expect(said).toContain('Resource temporarily unavailable');
    expect(await shell(app, eve, 'echo and I?')).toBe('and I?');
    await app.ready(eve);
    expect(await say(app, eve, 'and I?')).toBe('You said: and I?');
  });

  test('a memory hog', async () => {
    const said = await meanwhile(
      shell(app, eve, 'python3 -c "x = [bytearray(1 << 20) for _ in range(100000)]"; echo ended with $?'),
    );
    expect(said).toMatch(/137|SIGKILL|Killed/);
    await app.ready(eve);
    expect(await say(app, eve, 'and I?')).toBe('You said: and I?');
  });

  test('a flood of output, and files until the space of /tmp is used up', async () => {
    const said = await meanwhile(shell(app, eve, 'head -c 200000000 /dev/zero > /tmp/full; rm /tmp/full; yes'));
    expect(said).toContain('it printed more than 1 MB');
    expect(said).toContain('No space left on device');
    expect(await say(app, eve, 'and I?')).toBe('You said: and I?');
  });
});
