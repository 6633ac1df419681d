import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Agent } from './agent.js';
import type { AgentConfig, InstanceConfig } from './config.js';
import type { Conversations } from './conversation.js';
import { HttpError, TurnStopped, invalid } from './errors.js';
import type { Departed } from './files/departed.js';
import type { Arrivals } from './files/state.js';
import type { Log } from './log.js';
import { readMarker } from './marker.js';
import type { Packages } from './packages/packages.js';
import type { Preparation } from './preparation.js';
import { Releases } from './releases.js';
import type { RunningTurns } from './running.js';
import type { Trash } from './trash.js';
import { Workspace } from './workspace.js';

/** Where things lie on the data volume. */
export class DataFolders {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  workspace(agentId: string): string {
    return join(this.#root, 'workspaces', agentId);
  }

  home(agentId: string): string {
    return join(this.#root, 'homes', agentId);
  }

  /** What the gateway keeps of an agent: its marker and its conversations. */
  kept(agentId: string): string {
    return join(this.#root, '.berth', 'agents', agentId);
  }

  conversations(agentId: string): string {
    return join(this.kept(agentId), 'conversations');
  }

  marker(agentId: string): string {
    return join(this.kept(agentId), 'agent.json');
  }

  get packages(): string {
    return join(this.#root, '.berth', 'packages');
  }

  get trash(): string {
    return join(this.#root, '.berth', 'trash');
  }

  /** Everything of one agent. The workspace goes first: a crash in between leaves no workspace without the marker that names it. */
  allOf(agentId: string): string[] {
    return [this.workspace(agentId), this.home(agentId), this.kept(agentId)];
  }

  /** Ids of all agents that ever left something here. */
  async known(): Promise<string[]> {
    const parents = [join(this.#root, 'workspaces'), join(this.#root, 'homes'), join(this.#root, '.berth', 'agents')];
    const lists = await Promise.all(parents.map((dir) => readdir(dir).catch(() => [])));
    return [...new Set(lists.flat())];
  }
}

export interface RosterOptions {
  folders: DataFolders;
  trash: Trash;
  packages: Packages;
  preparation: Preparation;
  arrivals: Arrivals;
  departed: Departed;
  conversations: Conversations;
  running: RunningTurns;
  log: Log;
  /** Called at the first config under which no other instance has agents on the volume. */
  alone?: () => void;
}

/** The agents of this instance as Berth last wished them. */
export class Roster {
  readonly #options: RosterOptions;
  #agents = new Map<string, Agent>();
  #version: number | undefined;
  #mode: InstanceConfig['mode'] = 'full';
  readonly #releases: Releases;
  /** Incarnations whose state is not to be deleted with their agent. */
  #kept: ReadonlySet<string> = new Set();
  #applying: Promise<unknown> = Promise.resolve();

  constructor(options: RosterOptions) {
    this.#options = options;
    this.#releases = new Releases(options);
  }

  /** What is given, or about to be given, to another instance on the same volume. */
  get releases(): Releases {
    return this.#releases;
  }

  /** The version in force; undefined before the first config. It is per process: Berth's database may have been put back meanwhile. */
  get version(): number | undefined {
    return this.#version;
  }

  /** Whether turns may run. */
  get mode(): InstanceConfig['mode'] {
    return this.#mode;
  }

  get ids(): string[] {
    return [...this.#agents.keys()];
  }

  get(id: string): Agent | undefined {
    return this.#agents.get(id);
  }

  /** The agent of that id, or the only one there is where the caller named none. Throws 400 where there is no such agent. */
  find(id: string | undefined): Agent {
    const only = id === undefined || (id === 'default' && !this.#agents.has(id));
    if (only && this.#agents.size !== 1) throw invalid('model: must name the agent, as openclaw/<agent id>');
    const agent = only ? [...this.#agents.values()][0] : this.#agents.get(id);
    if (!agent) throw invalid(`Unknown agent '${(id as string).slice(0, 64)}'.`);
    return agent;
  }

  /** Makes the wish true. One at a time; a version lower than the one in force is refused with 409. */
  apply(config: InstanceConfig): Promise<{ version: number; agents: string[] }> {
    const applied = this.#applying.then(() => this.#apply(config));
    this.#applying = applied.catch(() => undefined);
    return applied;
  }

  async #apply(config: InstanceConfig): Promise<{ version: number; agents: string[] }> {
    const { packages, log } = this.#options;
    if (this.#version !== undefined && config.version < this.#version) {
      throw new HttpError(409, 'conflict', `version: ${this.#version} is in force already`);
    }
    const digests = config.agents.flatMap(({ skills }) => skills.map(({ digest }) => digest));
    const missing = await packages.missing(digests);
    if (missing.length > 0) throw missingPackages(missing);
    log.hide(config.agents.flatMap(({ secrets }) => [...secrets.values()]));
    if (this.#version === undefined && config.released.size === 0) this.#options.alone?.();
    this.#kept = config.kept;
    await this.#removeOthers(config);
    await this.#releases.set(config.released);
    const prepared: Prepared[] = [];
    for (const agent of config.agents) prepared.push(await this.#prepare(agent));
    this.#agents = new Map(prepared.map((one) => [one.config.id, this.#agentOf(one)]));
    this.#version = config.version;
    this.#mode = config.mode;
    // Those of agents that another instance has are needed too.
    if (config.released.size === 0) {
      await Promise.all([packages.keepOnly(digests), this.#options.departed.keepOnly(config.kept)]);
    }
    log.info('config applied', { version: config.version, mode: config.mode, agents: prepared.length });
    return { version: config.version, agents: this.ids };
  }

  #agentOf({ config, workspace, broken }: Prepared): Agent {
    const known = this.#agents.get(config.id);
    known?.update(config, broken);
    return known ?? new Agent(workspace, config, broken);
  }

  /** Removes every agent on the volume that is not wished, also those of an earlier life of this instance. */
  async #removeOthers(config: InstanceConfig): Promise<void> {
    const wished = new Set([...config.agents.map(({ id }) => id), ...config.released]);
    const known = new Set([...(await this.#options.folders.known()), ...this.#agents.keys()]);
    for (const id of known) if (!wished.has(id)) await this.#wipe(id);
  }

  async #prepare(config: AgentConfig): Promise<Prepared> {
    const { folders, preparation, arrivals, log } = this.#options;
    const { id, incarnation } = config;
    const markerPath = folders.marker(id);
    let before = await readMarker(markerPath);
    if (before?.incarnation !== incarnation) {
      const hasArrived = await arrivals.has(id, incarnation);
      // Of a state that was put in place only in part, by a process that died over it, the rest follows.
      if (!hasArrived || this.#agents.has(id)) await this.#wipe(id, hasArrived ? 'restored' : 'removed');
      if (hasArrived) await arrivals.adopt(id);
      before = undefined;
    }
    const workspace = this.#agents.get(id)?.workspace ?? new Workspace(folders.workspace(id), folders.home(id), log);
    const broken = await preparation.prepare(config, { workspace, markerPath, before });
    await arrivals.dropAdopted(id, incarnation);
    return { config, workspace, broken };
  }

  /** Ends an agent's turns, then takes all that is its out of sight at once and deletes it in the background. */
  async #wipe(id: string, why: 'removed' | 'restored' = 'removed'): Promise<void> {
    const { folders, conversations, departed, running, trash } = this.#options;
    this.#agents.delete(id);
    await running.stopAgent(id, new TurnStopped(why));
    conversations.forget(id);
    const incarnation = (await readMarker(folders.marker(id)))?.incarnation;
    if (incarnation !== undefined && this.#kept.has(incarnation)) departed.take(id, incarnation);
    for (const dir of folders.allOf(id)) await trash.discard(dir);
  }
}

function missingPackages(missing: string[]): HttpError {
  const message = 'packages: some that the config names are not here';
  return new HttpError(409, 'conflict', message, {}, { code: 'missing_packages', more: { missing } });
}

/** An agent whose folders are as its config wishes them. */
interface Prepared {
  config: AgentConfig;
  workspace: Workspace;
  /** Skills that could not be put in place, and why. */
  broken: ReadonlyMap<string, string>;
}
