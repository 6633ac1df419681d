import { Loop } from '../../lib/loop.js';
import type { Log } from '../../lib/log.js';
import type { Runtime } from '../../runtime/runtime.js';
import { LogCollection } from './collecting.js';
import type { LogLimits } from './limits.js';
import { collectLogsJob, pruneLogsJob } from './logs.jobs.js';
import { Logs, type LogsOptions } from './logs.js';

export interface LoggingOptions extends LogsOptions {
  runtime: Pick<Runtime, 'logs'>;
  processId: string;
  log: Log;
  limits?: Partial<LogLimits> | undefined;
}

/** The logs with what brings them in and takes them out. */
export class Logging {
  readonly logs: Logs;
  readonly loops: readonly Loop[];
  readonly #options: LoggingOptions;
  readonly #collection: LogCollection;
  readonly #collect: Loop;
  readonly #prune: Loop;

  constructor(options: LoggingOptions) {
    const { secrets, log } = options;
    this.#options = options;
    this.logs = new Logs(options);
    this.#collection = new LogCollection({
      ...options,
      redactorFor: (userId) => secrets.redactorFor(userId),
      onWritten: (userId) => this.logs.grown(userId),
      onSealed: (userId) => this.#keep(userId),
    });
    this.#collect = new Loop(collectLogsJob(this.#collection), log);
    this.#prune = new Loop(pruneLogsJob(this.logs), log);
    this.loops = [this.#collect, this.#prune];
  }

  /** `isAlone`: no other process can have this database open. */
  async prepare(isAlone: boolean): Promise<void> {
    const { bus } = this.#options;
    if (isAlone) await this.#collection.dropAllLeases();
    bus.subscribe('instance', () => this.#collect.wake());
    bus.subscribe('user', (id) => this.#keep(id));
    bus.subscribe('tier', () => this.#keep());
  }

  /** Resolves once what an instance printed before it ended has been read, or after a moment. */
  lastWords(instanceId: string): Promise<void> {
    return this.#collection.lastWords(instanceId);
  }

  /** After the loops: writes what was read, and lets other processes go on. */
  stop(): Promise<void> {
    return this.#collection.stop();
  }

  #keep(userId?: string): void {
    this.logs.prunable(userId);
    this.#prune.wake();
  }
}
