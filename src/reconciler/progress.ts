import type { Stage, StageTiming } from '../domains/deployments/deployments.table.js';
import type { Clock } from '../lib/clock.js';

/** The stages of one attempt with their times, as `deploy/status` shows them. */
export class Progress {
  readonly #clock: Clock;
  /** Told of each stage that ends, and how many milliseconds it took. */
  readonly #onEnd: (stage: Stage, ms: number) => void;
  #stages: StageTiming[];

  constructor(clock: Clock, stages: StageTiming[], onEnd: (stage: Stage, ms: number) => void = () => undefined) {
    this.#clock = clock;
    this.#onEnd = onEnd;
    this.#stages = stages;
  }

  /** The stage that was entered last. */
  get stage(): Stage | undefined {
    return this.#stages.at(-1)?.stage;
  }

  /** The stage that runs now, if any. */
  get running(): Stage | undefined {
    const last = this.#stages.at(-1);
    return last?.ms === undefined ? last?.stage : undefined;
  }

  /** Closes the stage that runs and opens this one; `creating` begins a new list, after the time since `queuedSince`; `ready` takes none. */
  at(stage: Stage, queuedSince?: Date): { stage: Stage; stages: StageTiming[] } {
    const nowMs = this.#clock.now();
    const kept =
      stage === 'creating' ? this.#queued(nowMs, queuedSince) : this.close().filter((timing) => timing.stage !== stage);
    const opened: StageTiming = { stage, started_at: new Date(nowMs).toISOString(), ...(stage === 'ready' ? { ms: 0 } : {}) };
    this.#stages = [...kept, opened];
    return { stage, stages: this.#stages };
  }

  #queued(nowMs: number, since: Date | undefined): StageTiming[] {
    if (since === undefined) return this.#stages.filter((timing) => timing.stage === 'queued');
    const ms = Math.max(0, nowMs - since.getTime());
    this.#onEnd('queued', ms);
    return [{ stage: 'queued', started_at: since.toISOString(), ms }];
  }

  /** Closes the stage that runs: the attempt ended in it. */
  close(): StageTiming[] {
    const nowMs = this.#clock.now();
    this.#stages = this.#stages.map((timing) => {
      if (timing.ms !== undefined) return timing;
      const ms = Math.max(0, nowMs - Date.parse(timing.started_at));
      this.#onEnd(timing.stage, ms);
      return { ...timing, ms };
    });
    return this.#stages;
  }
}
