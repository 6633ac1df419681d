import type { Stage } from '../domains/deployments/deployments.table.js';
import type { Meters } from '../lib/meters.js';

/** What the reconciler counts. */
export interface Noted {
  stage(stage: Stage, ms: number): void;
  step(labels: { step: string }): void;
  /** All that was done for one deployment under one lease. */
  work(labels: { outcome: string }, seconds: number): void;
}

export function reconcilerMeters(meters: Meters, busy: () => number): Noted {
  const stages = meters.histogram({
    name: 'berth_deploy_stage_duration_seconds',
    help: 'Stages of a deploy, from the wish to an agent that answers.',
    labels: ['stage'],
  });
  meters.gauge({ name: 'berth_reconcile_busy', help: 'Deployments that this process works on now.' }, () => [
    { labels: {}, value: busy() },
  ]);
  return {
    stage: (stage, ms) => stages({ stage }, ms / 1000),
    step: meters.counter({ name: 'berth_reconcile_steps_total', help: 'Steps taken, by kind.', labels: ['step'] }),
    work: meters.histogram({
      name: 'berth_reconcile_duration_seconds',
      help: 'Work on one deployment, from taking its lease to giving it back; `lost` where that was lost, or failed inside.',
      labels: ['outcome'],
    }),
  };
}
