// The program that contract tests run inside instances: it does what the lines of `commands` in its link folder say, in order,
// as they are added. Written for any Node, with nothing to install.
import { appendFileSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';

const linkDir = process.env.BERTH_LINK_DIR ?? '/run/berth';
const dataDir = process.env.BERTH_DATA_DIR ?? '/data';
let ignoreTerm = false;
let done = 0;
process.on('SIGTERM', () => ignoreTerm || process.exit(0));

const attempt = (work) => {
  try {
    return String(work() ?? 'ok');
  } catch (error) {
    return error.code ?? error.message;
  }
};

const probes = {
  status: () =>
    readFileSync('/proc/self/status', 'utf8')
      .match(/^(CapEff|NoNewPrivs|Seccomp|Uid|Gid):.*$/gm)
      .join('; '),
  root: () => attempt(() => writeFileSync('/x', 'x')),
  link: () => attempt(() => writeFileSync(join(linkDir, 'x'), 'x')),
  shm: () => attempt(() => writeFileSync('/dev/shm/x', 'x')),
  mqueue: () => attempt(() => writeFileSync('/dev/mqueue/x', 'x')),
  data: () => attempt(() => writeFileSync(join(dataDir, 'x'), 'x')),
  noexec: () => {
    writeFileSync('/tmp/x.sh', '#!/bin/sh\necho ran\n', { mode: 0o755 });
    return attempt(() => execFileSync('/tmp/x.sh'));
  },
  interfaces: () => readdirSync('/sys/class/net').join(' '),
  limits: () =>
    readFileSync('/proc/self/limits', 'utf8')
      .match(/^Max (core file size|open files).*$/gm)
      .join('; '),
  hostname: () => readFileSync('/proc/sys/kernel/hostname', 'utf8').trim(),
  env: () => Object.keys(process.env).sort().join(' '),
  processes: () => readdirSync('/proc').filter((name) => /^\d+$/.test(name)).length,
};

const commands = {
  say: ([stream, text]) => process[stream].write(text),
  count: (lines) => {
    for (let i = 1; i <= lines; i++) process.stdout.write(`line ${i}\n`);
  },
  ignoreTerm: () => (ignoreTerm = true),
  keep: (text) => writeFileSync(join(dataDir, 'kept'), text),
  recall: () => process.stdout.write(`kept: ${attempt(() => readFileSync(join(dataDir, 'kept'), 'utf8'))}\n`),
  // So much, or as far as it goes.
  fill: (mostMib) => {
    let written = 0;
    const said = attempt(() => {
      for (; written < mostMib; written++) appendFileSync(join(dataDir, 'filling'), Buffer.alloc(1 << 20, 1));
    });
    process.stdout.write(`filled ${written} ${said}\n`);
  },
  probe: () =>
    process.stdout.write(`${JSON.stringify(Object.fromEntries(Object.entries(probes).map(([k, f]) => [k, attempt(f)])))}\n`),
  // A child of its own group's, that holds its output open.
  spawn: () => process.stdout.write(`child ${spawn('/bin/sleep', ['1000'], { stdio: ['ignore', 'inherit', 'inherit'] }).pid}\n`),
  // A child that takes all the memory there is.
  oomChild: () =>
    spawn(process.execPath, ['-e', 'for (const held = []; ;) held.push(Buffer.alloc(1 << 20, 1))']).on('exit', (code, signal) =>
      process.stdout.write(`child ended ${signal}\n`),
    ),
  oom: () => {
    for (const held = []; ;) held.push(Buffer.alloc(1 << 20, 1));
  },
  // Once what was said has left: output to a full pipe waits inside the program.
  exit: (code) => process.stdout.write('', () => process.exit(code)),
};

setInterval(() => {
  let lines = [];
  try {
    lines = readFileSync(join(linkDir, 'commands'), 'utf8').split('\n').slice(0, -1);
  } catch {
    return; // No commands yet.
  }
  for (const line of lines.slice(done)) {
    done++;
    const [[name, value]] = Object.entries(JSON.parse(line));
    commands[name](value);
  }
}, 20);
