import type { Texts } from './delivery.js';
import { BUILT_IN, TEMPLATE_FILES, type TemplateFile, type TemplateSource } from './files.js';
import { ownValues, type Values } from './render.js';

/** The newest version of a file in one layer. */
export interface Newest {
  version: number;
  /** null: this layer says nothing (any more). */
  text: string | null;
  at: Date;
  /** What all its kept versions take. */
  keptBytes: number;
}

/** The text that holds, and where it comes from. */
export interface Holding {
  source: TemplateSource;
  /** 0: built in. */
  version: number;
  text: string;
  at: Date | null;
}

export interface Owner {
  id: string;
  name: string;
  variables: Record<string, string>;
}

interface Row {
  agent_id: string | null;
  file: TemplateFile;
  version: number;
  text: string | null;
  kept_bytes: number | string;
  created_at: Date;
}

/** A user's templates in their layers: built-in below the user's defaults below what an agent has of its own. Changed in memory first, to be checked. */
export class Layers {
  readonly owner: Owner;
  readonly #newest = new Map<string, Newest>();

  constructor(owner: Owner, rows: Row[]) {
    this.owner = owner;
    for (const { agent_id: agentId, file, version, text, kept_bytes: bytes, created_at: at } of rows) {
      this.set(agentId, file, { version, text, at, keptBytes: Number(bytes) });
    }
  }

  /** To change, while this one stays as it is. */
  copy(variables = this.owner.variables): Layers {
    const copied = new Layers({ ...this.owner, variables }, []);
    for (const [key, newest] of this.#newest) copied.#newest.set(key, newest);
    return copied;
  }

  set(agentId: string | null, file: TemplateFile, newest: Newest): void {
    this.#newest.set(keyOf(agentId, file), newest);
  }

  newest(agentId: string | null, file: TemplateFile): Newest | undefined {
    return this.#newest.get(keyOf(agentId, file));
  }

  /** What holds for the agent; for agents without a text of their own, where `agentId` is null. */
  holding(agentId: string | null, file: TemplateFile): Holding {
    const own = agentId === null ? undefined : this.newest(agentId, file);
    if (own && own.text !== null) return { source: 'agent', version: own.version, text: own.text, at: own.at };
    const users = this.newest(null, file);
    if (users && users.text !== null) return { source: 'user', version: users.version, text: users.text, at: users.at };
    return { source: 'built_in', version: 0, text: BUILT_IN[file], at: null };
  }

  texts(agentId: string | null): Texts {
    return Object.fromEntries(TEMPLATE_FILES.map((file) => [file, this.holding(agentId, file).text])) as Texts;
  }

  values(agent: { id: string; name: string }): Values {
    return new Map([...Object.entries(this.owner.variables), ...ownValues(agent, this.owner)]);
  }

  /** A layer's version as a whole: every version of a file in it counts one. */
  version(agentId: string | null): number {
    return TEMPLATE_FILES.reduce((sum, file) => sum + (this.newest(agentId, file)?.version ?? 0), 0);
  }

  keptBytes(): number {
    return [...this.#newest.values()].reduce((sum, { keptBytes }) => sum + keptBytes, 0);
  }

  /** Every text of the user and of its agents that is there, held or hidden. */
  written(): string[] {
    return [...this.#newest.values()].map(({ text }) => text).filter((text) => text !== null);
  }
}

function keyOf(agentId: string | null, file: TemplateFile): string {
  return `${agentId ?? ''}/${file}`;
}
