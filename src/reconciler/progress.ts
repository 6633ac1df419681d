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

  get stage(): Stage | undefined {
    return this.#stages.at(-1)?.stage;
  }

  /** Closes the stage that runs and opens this one; `creating` begins a new list, `ready` takes no time. */
  at(stage: Stage): { stage: Stage; stages: StageTiming[] } {
    const nowMs = this.#clock.now();
    const closed = this.#stages.map((timing) => (timing.ms === undefined ? { ...timing, ms: Math.max(0, nowMs - Date.parse(timing.started_at)) } : timing));
    const kept = stage === 'creating' ? [] : closed.filter((timing) => timing.stage !== stage);
    const opened: StageTiming = { stage, started_at: new Date(nowMs).toISOString(), ...(stage === 'ready' ? { ms: 0 } : {}) };
    this.#stages = [...kept, opened];
    return { stage, stages: this.#stages };
  }
}
