import { randomBytes } from 'node:crypto';
import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AppError } from '../../lib/errors.js';
import type { InstanceSpec } from '../runtime.js';

/** What is kept of an instance: its spec, and when it was made. */
export interface InstanceRecord {
  runtimeId: string;
  createdAt: number;
  spec: InstanceSpec;
}

export interface VolumeRecord {
  name: string;
  installationId: string;
  deploymentId: string;
  createdAt: number;
}

/** What a shim is told to run. `id` names one life of the instance. */
export interface Launch {
  id: string;
  command: string;
  args: string[];
  cwd: string;
  env: Record<string, string>;
}

/** Who was started to run it. */
export interface ShimRecord {
  id: string;
  boot: string;
  pid: number;
  began: string;
}

/** What the shim says of the life it runs. */
export interface ShimState {
  id: string;
  boot: string;
  startedAt: number;
  pid?: number;
  began?: string;
  exitCode?: number;
  error?: string;
  endedAt?: number;
}

/**
 * The process runtime's records on disk; they are its only memory, so that a Berth killed at any moment finds everything again.
 *
 *     instances/<name>/  record.json  launch.json  shim.json  lock  log  log.1
 *     states/<name>.json      written by shims, in one folder so that one watch sees all
 *     volumes/<name>/    record.json  data/
 */
export class Store {
  readonly #root: string;
  readonly states: string;

  constructor(root: string) {
    this.#root = root;
    this.states = join(root, 'states');
    for (const folder of ['instances', 'states', 'volumes']) mkdirSync(join(root, folder), { recursive: true, mode: 0o700 });
  }

  folder(name: string): string {
    return join(this.#root, 'instances', checked(name));
  }

  stateFile(name: string): string {
    return join(this.states, `${checked(name)}.json`);
  }

  dataFolder(volume: string): string {
    return join(this.#root, 'volumes', checked(volume), 'data');
  }

  /** Records a new instance; where there is one of that name it is returned instead, so that of two at once one wins. */
  addInstance(spec: InstanceSpec): InstanceRecord {
    const record: InstanceRecord = { runtimeId: randomBytes(6).toString('hex'), createdAt: Date.now(), spec };
    return addOnce(this.folder(spec.name), record);
  }

  addVolume({ volume: name, installationId, deploymentId }: InstanceSpec): VolumeRecord {
    const record: VolumeRecord = { name, installationId, deploymentId, createdAt: Date.now() };
    const kept = addOnce(join(this.#root, 'volumes', checked(name)), record);
    mkdirSync(this.dataFolder(name), { recursive: true, mode: 0o700 });
    return kept;
  }

  instance(name: string): InstanceRecord | undefined {
    return readJson<InstanceRecord>(join(this.folder(name), 'record.json'));
  }

  volume(name: string): VolumeRecord | undefined {
    return readJson<VolumeRecord>(join(this.#root, 'volumes', checked(name), 'record.json'));
  }

  instances(): InstanceRecord[] {
    return readdirSync(join(this.#root, 'instances'))
      .map((name) => this.instance(name))
      .filter((found) => found !== undefined);
  }

  volumes(): VolumeRecord[] {
    return readdirSync(join(this.#root, 'volumes'))
      .map((name) => this.volume(name))
      .filter((found) => found !== undefined);
  }

  saveLaunch(name: string, launch: Launch): void {
    writeJson(join(this.folder(name), 'launch.json'), launch);
  }

  saveShim(name: string, shim: ShimRecord): void {
    writeJson(join(this.folder(name), 'shim.json'), shim);
  }

  launch(name: string): Launch | undefined {
    return readJson<Launch>(join(this.folder(name), 'launch.json'));
  }

  shim(name: string): ShimRecord | undefined {
    return readJson<ShimRecord>(join(this.folder(name), 'shim.json'));
  }

  state(name: string): ShimState | undefined {
    return readJson<ShimState>(this.stateFile(name));
  }

  /** The record goes last: what is left after a crash in the middle is still known and can be removed again. */
  forgetInstance(name: string): void {
    rmSync(this.stateFile(name), { force: true });
    forgetFolder(this.folder(name));
  }

  forgetVolume(name: string): void {
    forgetFolder(join(this.#root, 'volumes', checked(name)));
  }
}

/** Names become paths: nothing in them may lead elsewhere. */
function checked(name: string): string {
  if (/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}$/.test(name)) return name;
  throw new AppError('invalid_request', 'a name holds only letters, digits, dot, dash and underscore');
}

/** Writes `record.json` whole and only if there is none: a hard link is made or fails, and never half. */
function addOnce<T>(folder: string, record: T): T {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, 'record.json');
  const draft = join(folder, `draft-${randomBytes(6).toString('hex')}`);
  writeFileSync(draft, JSON.stringify(record), { mode: 0o600 });
  try {
    linkSync(draft, path);
    return record;
  } catch (error) {
    const existing = (error as NodeJS.ErrnoException).code === 'EEXIST' ? readJson<T>(path) : undefined;
    if (existing === undefined) throw error;
    return existing;
  } finally {
    unlinkSync(draft);
  }
}

function forgetFolder(folder: string): void {
  for (const entry of entriesOf(folder))
    if (entry !== 'record.json') rmSync(join(folder, entry), { recursive: true, force: true });
  rmSync(folder, { recursive: true, force: true });
}

function entriesOf(folder: string): string[] {
  return statSync(folder, { throwIfNoEntry: false }) ? readdirSync(folder) : [];
}

function writeJson(path: string, value: unknown): void {
  writeFileSync(`${path}.tmp`, JSON.stringify(value), { mode: 0o600 });
  renameSync(`${path}.tmp`, path);
}

function readJson<T>(path: string): T | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as T;
  } catch (error) {
    // Files are replaced whole, so one that is there can be read; ENOTDIR is a stray file among the folders.
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}
