import type { Stage, StageTiming } from '../domains/deployments/deployments.table.js';
import type { Clock } from '../lib/clock.js';

/** The stages of one attempt with their times, as `deploy/status` shows them. */
export class Progress {
  readonly #clock: Clock;
  #stages: StageTiming[];

  constructor(clock: Clock, stages: StageTiming[]) {
    this.#clock = clock;
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
    return [{ stage: 'queued', started_at: since.toISOString(), ms: Math.max(0, nowMs - since.getTime()) }];
  }

  /** Closes the stage that runs: the attempt ended in it. */
  close(): StageTiming[] {
    const nowMs = this.#clock.now();
    this.#stages = this.#stages.map((timing) =>
      timing.ms === undefined ? { ...timing, ms: Math.max(0, nowMs - Date.parse(timing.started_at)) } : timing,
    );
    return this.#stages;
  }
}
