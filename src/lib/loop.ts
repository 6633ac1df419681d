import type { Log } from './log.js';
import { type Meters, NO_METERS } from './meters.js';
import { messageOf } from './errors.js';

export interface Job {
  name: string;
  everyMs: number;
  /** How long a run that was asked for waits, so that what is asked for meanwhile is done with it. Absent: not at all. */
  gatherMs?: number | undefined;
  /** Idempotent, takes no input. `signal` aborts when the loop stops. */
  run(signal: AbortSignal): Promise<void>;
}

/** Says how long runs of jobs took, and how they ended. One for all loops of a process. */
export type NoteRun = (labels: { job: string; outcome: 'done' | 'failed' }, seconds: number) => void;

export function jobMeter(meters: Meters): NoteRun {
  return meters.histogram({
    name: 'berth_job_duration_seconds',
    help: 'Runs of the jobs that Berth does by itself.',
    labels: ['job', 'outcome'],
  });
}

const NOTE_NOTHING = jobMeter(NO_METERS);

/** Runs a job every `everyMs` and whenever woken, never twice at once; a wake during a run causes one more run. */
export class Loop {
  readonly #job: Job;
  readonly #log: Log;
  readonly #note: NoteRun;
  readonly #stop = new AbortController();
  #woken = false;
  #hurry: (() => void) | undefined;
  #wakeUp: (() => void) | undefined;
  #done: Promise<void> | undefined;

  constructor(job: Job, log: Log, note: NoteRun = NOTE_NOTHING) {
    this.#job = job;
    this.#log = log;
    this.#note = note;
  }

  start(): void {
    this.#done ??= this.#runUntilStopped();
  }

  /** Asks for a run, as soon as the job allows. */
  wake(): void {
    this.#woken = true;
    this.#hurry?.();
  }

  /** Aborts the run in progress and waits for its end. */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wakeUp?.();
    await this.#done;
  }

  async #runUntilStopped(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      this.#woken = false;
      const beganMs = performance.now();
      let outcome: 'done' | 'failed' = 'done';
      try {
        await this.#job.run(this.#stop.signal);
      } catch (error) {
        outcome = 'failed';
        if (!this.#stop.signal.aborted) this.#log.error({ job: this.#job.name, err: error }, `job failed: ${messageOf(error)}`);
      }
      this.#note({ job: this.#job.name, outcome }, (performance.now() - beganMs) / 1000);
      await this.#sleep();
    }
  }

  #sleep(): Promise<void> {
    const { everyMs, gatherMs } = this.#job;
    if (this.#stop.signal.aborted || (this.#woken && gatherMs === undefined)) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#hurry = undefined;
        resolve();
      };
      let timer = setTimeout(done, this.#woken ? gatherMs : everyMs);
      this.#wakeUp = done;
      if (gatherMs === undefined) this.#hurry = done;
      else if (!this.#woken)
        this.#hurry = () => {
          this.#hurry = undefined;
          clearTimeout(timer);
          timer = setTimeout(done, gatherMs);
        };
    });
  }
}
