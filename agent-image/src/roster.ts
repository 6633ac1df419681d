import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { AgentConfig, InstanceConfig } from './config.js';
import type { Conversations } from './conversation.js';
import { HttpError, TurnStopped, invalid } from './errors.js';
import { errorCode, type Log } from './log.js';
import type { RunningTurns } from './running.js';
import { Workspace, readMarker, writeMarker } from './workspace.js';

/** An agent that can be talked to. */
export interface Agent {
  config: AgentConfig;
  workspace: Workspace;
}

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
  conversations: Conversations;
  running: RunningTurns;
  log: Log;
}

/** The agents of this instance as Berth last wished them. */
export class Roster {
  readonly #options: RosterOptions;
  #agents = new Map<string, Agent>();
  #version: number | undefined;
  #applying: Promise<unknown> = Promise.resolve();

  constructor(options: RosterOptions) {
    this.#options = options;
  }

  /** The version in force; undefined before the first config. It is per process: Berth's database may have been put back meanwhile. */
  get version(): number | undefined {
    return this.#version;
  }

  get ids(): string[] {
    return [...this.#agents.keys()];
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
    if (this.#version !== undefined && config.version < this.#version) {
      throw new HttpError(409, 'conflict', `version: ${this.#version} is in force already`);
    }
    await this.#removeOthers(config);
    const agents = new Map<string, Agent>();
    for (const agent of config.agents) agents.set(agent.id, await this.#prepare(agent));
    this.#agents = agents;
    this.#version = config.version;
    this.#options.log.info('config applied', { version: config.version, agents: agents.size });
    return { version: config.version, agents: this.ids };
  }

  /** Removes every agent on the volume that is not wished, also those of an earlier life of this instance. */
  async #removeOthers(config: InstanceConfig): Promise<void> {
    const wished = new Set(config.agents.map(({ id }) => id));
    const known = new Set([...(await this.#options.folders.known()), ...this.#agents.keys()]);
    for (const id of known) if (!wished.has(id)) await this.#wipe(id);
  }

  async #prepare(config: AgentConfig): Promise<Agent> {
    const { folders, log } = this.#options;
    let before = await readMarker(folders.marker(config.id));
    if (before?.incarnation !== config.incarnation) {
      await this.#wipe(config.id);
      before = undefined;
    }
    const workspace =
      this.#agents.get(config.id)?.workspace ?? new Workspace(folders.workspace(config.id), folders.home(config.id), log);
    await workspace.own(config.files, before?.owned ?? []);
    await writeMarker(folders.marker(config.id), { incarnation: config.incarnation, owned: [...config.files.keys()] });
    return { config, workspace };
  }

  /** Ends an agent's turns, then takes all that is its out of sight at once and deletes it in the background. */
  async #wipe(id: string): Promise<void> {
    const { folders, conversations, running } = this.#options;
    this.#agents.delete(id);
    await running.stopAgent(id, new TurnStopped('removed'));
    conversations.forget(id);
    for (const dir of folders.allOf(id)) await this.#discard(dir);
  }

  async #discard(dir: string): Promise<void> {
    const { folders, log } = this.#options;
    const bin = join(folders.trash, randomUUID());
    try {
      await mkdir(folders.trash, { recursive: true });
      await rename(dir, bin);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      log.warn('not moved away, deleted in place', { code: errorCode(error) });
      await rm(dir, { recursive: true, force: true });
      return;
    }
    void this.#delete(bin);
  }

  /** Deletes what an earlier life of this instance had no time to. */
  async emptyTrash(): Promise<void> {
    const left = await readdir(this.#options.folders.trash).catch(() => []);
    for (const name of left) await this.#delete(join(this.#options.folders.trash, name));
  }

  async #delete(path: string): Promise<void> {
    try {
      await rm(path, { recursive: true, force: true });
    } catch (error) {
      this.#options.log.warn('not deleted yet, tried again at the next start', { code: errorCode(error) });
    }
  }
}
