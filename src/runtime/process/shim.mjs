// Stands between Berth and one instance of the process runtime, as containerd's shim does between an engine and a container: it
// outlives Berth, writes the instance's output down line by line, and records how it ended. Berth starts it as
// `node shim.mjs <instance folder> <state file>`. It is plain JavaScript because it is run as a file of its own.
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, renameSync, statSync, unlinkSync, writeFileSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';

const MAX_LOG_BYTES = 5 * 1024 * 1024;
const MAX_LINE_BYTES = 256 * 1024;
/** How long output may still come once the program has ended, when something it left behind holds its pipes. */
const LAST_WORDS_MS = 1000;

const [folder, stateFile] = process.argv.slice(2);
const launch = JSON.parse(readFileSync(join(folder, 'launch.json'), 'utf8'));

/** When a process began, in the kernel's ticks since boot: with the pid it names one process for ever. */
function beganAt(pid) {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')[19];
  } catch {
    return undefined; // It has ended.
  }
}

/** One instance has one shim: a second one, started because Berth died between two steps, steps back. */
function takeLock() {
  const lock = join(folder, 'lock');
  for (let attempt = 0; attempt < 3; attempt++) {
    try {
      const fd = openSync(lock, 'wx', 0o600);
      writeSync(fd, `${process.pid} ${beganAt(process.pid)}`);
      closeSync(fd);
      return () => unlinkSync(lock);
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      const [pid, began] = readFileSync(lock, 'utf8').split(' ');
      if (began && beganAt(pid) === began) process.exit(75);
      unlinkSync(lock);
    }
  }
  process.exit(75);
}

class Log {
  #path = join(folder, 'log');
  #fd = openSync(this.#path, 'a', 0o600);
  #bytes = statSync(this.#path).size;

  write(stream, line) {
    const head = Buffer.from(`${new Date().toISOString()} ${stream} `);
    const entry = Buffer.concat([head, line, Buffer.from('\n')]);
    if (this.#bytes + entry.length > MAX_LOG_BYTES) this.#rotate();
    writeSync(this.#fd, entry);
    this.#bytes += entry.length;
  }

  #rotate() {
    closeSync(this.#fd);
    renameSync(this.#path, `${this.#path}.1`);
    this.#fd = openSync(this.#path, 'a', 0o600);
    this.#bytes = 0;
  }
}

/** Cuts a stream of bytes into lines. A line without end is handed on in pieces, each ending with a complete character. */
class Lines {
  #parts = [];
  #bytes = 0;

  constructor(onLine) {
    this.onLine = onLine;
  }

  take(chunk) {
    let from = 0;
    for (let end; (end = chunk.indexOf(10, from)) >= 0; from = end + 1) {
      this.#add(chunk.subarray(from, end));
      this.#hand(this.#bytes);
    }
    this.#add(chunk.subarray(from));
    if (this.#bytes >= MAX_LINE_BYTES) this.#hand(this.#completeBytes());
  }

  flush() {
    if (this.#bytes > 0) this.#hand(this.#bytes);
  }

  #add(part) {
    this.#parts.push(part);
    this.#bytes += part.length;
  }

  #hand(length) {
    const all = Buffer.concat(this.#parts);
    this.#parts = [];
    this.#bytes = 0;
    this.onLine(all.subarray(0, length));
    if (length < all.length) this.#add(all.subarray(length));
  }

  #completeBytes() {
    const all = Buffer.concat(this.#parts);
    let start = all.length - 1;
    while (start > all.length - 4 && (all[start] & 0xc0) === 0x80) start--;
    const need = all[start] >= 0xf0 ? 4 : all[start] >= 0xe0 ? 3 : all[start] >= 0xc0 ? 2 : 1;
    return start + need > all.length ? start : all.length;
  }
}

const unlock = takeLock();
const log = new Log();
let state = { id: launch.id, boot: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(), startedAt: Date.now() };

function record(changes) {
  state = { ...state, ...changes };
  writeFileSync(`${stateFile}.tmp`, JSON.stringify(state), { mode: 0o600 });
  renameSync(`${stateFile}.tmp`, stateFile);
}

function finish(changes) {
  if (state.endedAt !== undefined) return;
  for (const lines of Object.values(outputs)) lines.flush();
  unlock();
  record({ ...changes, endedAt: Date.now() });
  process.exit(0);
}

const outputs = {
  stdout: new Lines((line) => log.write('stdout', line)),
  stderr: new Lines((line) => log.write('stderr', line)),
};

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => undefined);

const child = spawn(launch.command, launch.args, {
  cwd: launch.cwd,
  env: launch.env,
  // A session of its own, so that a signal to its group reaches all it started and not the shim.
  detached: true,
  stdio: ['ignore', 'pipe', 'pipe'],
});
child.once('error', (error) => finish({ exitCode: 127, error: error.message }));
for (const name of ['stdout', 'stderr']) child[name].on('data', (chunk) => outputs[name].take(chunk));

child.once('spawn', () => {
  record({ pid: child.pid, began: beganAt(child.pid) });
  // Berth waits for the end of this pipe to know that the state is written.
  closeSync(3);
});

child.once('exit', (code, signal) => {
  const exitCode = code ?? 128 + constants.signals[signal];
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It left nobody behind.
  }
  child.once('close', () => finish({ exitCode }));
  setTimeout(() => finish({ exitCode }), LAST_WORDS_MS);
});
