import { watch, type FSWatcher } from 'node:fs';
import { EventQueue } from '../event-queue.js';
import type { RuntimeEvent } from '../runtime.js';

/** An instance at one look: what it is, which life it lives, and how that stands. */
export interface Glimpse {
  name: string;
  instanceId: string;
  deploymentId: string;
  /** Undefined before the first start. */
  life: string | undefined;
  state: 'created' | 'running' | 'paused' | 'exited';
}

/** Ends that no shim lives to write down are only seen by looking. */
const LOOK_EVERY_MS = 1000;

/**
 * Tells what happened from what changed between two looks. It looks when a shim writes a state, when asked to, and now and
 * then besides; so it needs no child process of its own to be told of an end, and works for adopted instances alike.
 */
export class Watcher {
  readonly #statesFolder: string;
  readonly #look: () => Glimpse[];
  readonly #queues = new Set<EventQueue>();
  #last = new Map<string, Glimpse>();
  #folderWatch: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(statesFolder: string, look: () => Glimpse[]) {
    this.#statesFolder = statesFolder;
    this.#look = look;
  }

  async *read(signal: AbortSignal): AsyncGenerator<RuntimeEvent, void, void> {
    const queue = new EventQueue();
    if (this.#queues.size === 0) this.#begin();
    this.#queues.add(queue);
    queue.push({ type: 'resync' });
    try {
      yield* queue.read(signal);
    } finally {
      this.#queues.delete(queue);
      if (this.#queues.size === 0) this.#end();
    }
  }

  /** Looks now, so that what was just done is told apart from what is done next. */
  lookNow(): void {
    if (this.#queues.size === 0) return;
    const now = new Map(this.#look().map((glimpse) => [glimpse.name, glimpse]));
    for (const [name, before] of this.#last) this.#tell(before, now.get(name));
    for (const [name, after] of now) if (!this.#last.has(name)) this.#tell(undefined, after);
    this.#last = now;
  }

  #begin(): void {
    this.#last = new Map(this.#look().map((glimpse) => [glimpse.name, glimpse]));
    this.#folderWatch = this.#watchFolder();
    this.#timer = setInterval(() => this.lookNow(), LOOK_EVERY_MS);
  }

  /** Without the kernel's help (its watches are few, and shared by all of a user's programs) the timer must do. */
  #watchFolder(): FSWatcher | undefined {
    try {
      const folderWatch = watch(this.#statesFolder, () => this.lookNow());
      folderWatch.on('error', () => folderWatch.close());
      return folderWatch;
    } catch {
      return undefined;
    }
  }

  #end(): void {
    this.#folderWatch?.close();
    clearInterval(this.#timer);
  }

  #tell(before: Glimpse | undefined, after: Glimpse | undefined): void {
    const subject = after ?? before!;
    const { name, instanceId, deploymentId } = subject;
    for (const type of changes(before, after)) {
      for (const queue of this.#queues) queue.push({ type, name, instanceId, deploymentId });
    }
  }
}

const isUp = (glimpse: Glimpse | undefined) => glimpse?.state === 'running' || glimpse?.state === 'paused';

/** The events that lead from one look to the next, in order. */
export function changes(before: Glimpse | undefined, after: Glimpse | undefined): Exclude<RuntimeEvent['type'], 'resync'>[] {
  const events: Exclude<RuntimeEvent['type'], 'resync'>[] = [];
  const sameLife = before?.life === after?.life;
  if (isUp(before) && !(sameLife && isUp(after))) events.push('die');
  if (before && !after) events.push('remove');
  if (after?.life !== undefined && !sameLife) events.push(...(isUp(after) ? (['start'] as const) : (['start', 'die'] as const)));
  if (sameLife && before?.state === 'running' && after?.state === 'paused') events.push('pause');
  if (sameLife && before?.state === 'paused' && after?.state === 'running') events.push('unpause');
  if (!sameLife && after?.state === 'paused') events.push('pause');
  return events;
}
