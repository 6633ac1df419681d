import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { Bucket } from '../../lib/bucket.js';
import { messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { Runtime } from '../../runtime/runtime.js';
import { type Basin, Collector, type Source } from './collector.js';
import type { LogLimits } from './limits.js';
import type { MarkValue } from './mark.js';
import { instanceKey, type ShownRecord } from './record.js';
import type { Redact } from './redact.js';
import type { Place } from './scan.js';
import * as store from './logs.store.js';
import { StreamWriter, whyNotWritten } from './stream-writer.js';

export interface IntakeOptions {
  db: Kysely<Schema>;
  runtime: Pick<Runtime, 'logs'>;
  place: Place;
  lease: store.StreamLease;
  left: readonly store.LeftSegment[];
  heldUntilMs: number;
  limits: LogLimits;
  log: Log;
  redactorFor(userId: string): Promise<Redact>;
  onWritten(): void;
  onSealed(): void;
}

/** What is known of a user's secrets and agents is never older, whatever the bus says. */
const STALE_AFTER_MS = 1_000;

/** All that one user's instances print, on its way to the stream: a collector each, and one writer. */
export class Intake implements Basin {
  readonly #options: IntakeOptions;
  /** There once it is open, before anything is asked of it. */
  #writer!: StreamWriter;
  readonly #collectors = new Map<string, { collector: Collector; source: Source; done: Promise<void> }>();
  readonly #keep = new Map<string, Bucket>();
  readonly #waiting = new Map<string, string>();
  readonly #stop = new AbortController();
  #toldWaiting: string | null | undefined;
  #hide: Redact | undefined;
  #refreshing: Promise<Redact> | undefined;
  #freshUntilMs = 0;
  #agents = new Map<string, Set<string>>();
  #idleSinceMs = performance.now();

  private constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /** Takes the stream over. */
  static async open(options: IntakeOptions): Promise<Intake> {
    const intake = new Intake(options);
    intake.#writer = await StreamWriter.open({
      ...options,
      onFailed: (error) => intake.#cannotWrite(error),
      onWritten: () => {
        intake.waiting(WRITING, undefined);
        options.onWritten();
      },
    });
    return intake;
  }

  get isHeld(): boolean {
    return this.#writer.isHeld;
  }

  /** For how long there has been nothing to collect. */
  get idleMs(): number {
    return this.#collectors.size > 0 ? 0 : performance.now() - this.#idleSinceMs;
  }

  hold(untilMs: number): void {
    this.#writer.hold(untilMs);
  }

  /** Collects of these, and of no others; those that sleep are read to their end. */
  follow(sources: readonly (Source & { stopped: boolean })[]): void {
    const running = new Set(sources.filter(({ stopped }) => !stopped).map(({ instanceId }) => instanceId));
    for (const [id, { collector }] of this.#collectors) {
      if (running.has(id)) collector.wake();
      else collector.finish();
    }
    const read = [...this.#collectors.values()].map(({ source }) => source);
    this.#writer.keepMarks(new Set([...sources, ...read].map(keyOf)));
    for (const source of sources)
      if (running.has(source.instanceId) && !this.#collectors.has(source.instanceId)) this.#begin(source);
  }

  /** Something changed, of that deployment if one is given: secrets and agents are read anew before the next line. */
  refresh(deploymentId?: string): void {
    const isOwn = deploymentId === undefined || this.#keep.has(deploymentId);
    if (isOwn) this.#freshUntilMs = 0;
  }

  collects(instanceId: string): boolean {
    return this.#collectors.has(instanceId);
  }

  /** Resolves once all that an instance printed before it ended is written, or after a while; at once where it is not collected here. */
  async lastWords(instanceId: string, withinMs: number = this.#options.limits.lastWordsMs): Promise<void> {
    await this.#collectors.get(instanceId)?.collector.lastWords(withinMs);
  }

  /** Writes down how far the stream is, and why nothing comes. */
  async note(): Promise<void> {
    await this.#writer.note();
    await this.#tellWaiting();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.all([...this.#collectors.values()].map(({ done }) => done));
    await this.#writer.close();
  }

  // ---- what collectors ask ----

  get attempt(): number {
    return this.#writer.attempt;
  }

  markOf(key: string): MarkValue {
    return this.#writer.markOf(key);
  }

  add(record: ShownRecord, mark: MarkValue, attempt: number): Promise<void> | undefined {
    return this.#writer.add(record, mark, attempt);
  }

  settle(): Promise<void> {
    return this.#writer.settle();
  }

  redactor(): Redact | Promise<Redact> {
    if (this.#hide && performance.now() < this.#freshUntilMs) return this.#hide;
    return (this.#refreshing ??= this.#readUser().finally(() => (this.#refreshing = undefined)));
  }

  knows(deploymentId: string, agent: string): boolean {
    return this.#agents.get(deploymentId)?.has(agent) ?? false;
  }

  waiting(of: string, reason: string | undefined): void {
    if (reason === undefined ? !this.#waiting.delete(of) : this.#waiting.get(of) === reason) return;
    if (reason !== undefined) this.#waiting.set(of, reason);
    this.#tellWaiting().catch((error: unknown) =>
      this.#options.log.warn({ err: error }, `why no logs come could not be written down: ${messageOf(error)}`),
    );
  }

  #begin(source: Source): void {
    const { runtime, limits, log } = this.#options;
    const keep = this.#keep.get(source.deploymentId) ?? new Bucket(limits.keepBurstBytes, limits.keepBytesPerS);
    this.#keep.set(source.deploymentId, keep);
    const collector = new Collector(source, { runtime, limits, keep, basin: this });
    const done = collector
      .run(this.#stop.signal)
      .catch((error: unknown) =>
        log.error({ err: error, instance: source.instanceId }, `collecting logs failed: ${messageOf(error)}`),
      )
      .finally(() => this.#ended(source));
    this.#collectors.set(source.instanceId, { collector, source, done });
  }

  #ended({ instanceId, deploymentId }: Source): void {
    this.#collectors.delete(instanceId);
    this.waiting(instanceId, undefined);
    this.#idleSinceMs = performance.now();
    if (![...this.#collectors.values()].some(({ source }) => source.deploymentId === deploymentId))
      this.#keep.delete(deploymentId);
  }

  #cannotWrite(error: unknown): void {
    this.#options.log.error({ err: error, user: this.#options.place.userId }, `logs could not be written: ${messageOf(error)}`);
    this.waiting(WRITING, whyNotWritten(error));
    for (const { collector } of this.#collectors.values()) collector.restart();
  }

  async #readUser(): Promise<Redact> {
    const { db, place, redactorFor } = this.#options;
    // What is announced while it is read makes it stale again.
    this.#freshUntilMs = performance.now() + STALE_AFTER_MS;
    try {
      this.#agents = await agentsOf(db, place.userId);
      this.#hide = await redactorFor(place.userId);
      return this.#hide;
    } catch (error) {
      this.#freshUntilMs = 0;
      throw error;
    }
  }

  async #tellWaiting(): Promise<void> {
    const { db, place, lease } = this.#options;
    const said = this.#waiting.get(WRITING) ?? [...this.#waiting.values()][0] ?? null;
    if (said === this.#toldWaiting || (said === null && this.#toldWaiting === undefined)) return;
    this.#toldWaiting = said;
    try {
      await store.setWaiting(db, place.userId, lease, said);
    } catch (error) {
      this.#toldWaiting = undefined;
      throw error;
    }
    this.#options.onWritten();
  }
}

/** The waiting of the writer among those of instances. */
const WRITING = '';

/** Names of agents by deployment. */
async function agentsOf(db: Kysely<Schema>, userId: string): Promise<Map<string, Set<string>>> {
  const names = new Map<string, Set<string>>();
  for (const { name, deployment_id, moving_from } of await store.readAgentNames(db, userId)) {
    for (const id of [deployment_id, ...(moving_from === null ? [] : [moving_from])]) {
      names.set(id, (names.get(id) ?? new Set<string>()).add(name));
    }
  }
  return names;
}

function keyOf({ deploymentId, generation }: Source): string {
  return instanceKey({ deployment_id: deploymentId, generation });
}
