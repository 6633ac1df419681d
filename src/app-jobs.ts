import type { AppOptions } from './app-options.js';
import type { Database } from './db/open.js';
import { moveAgentsJob } from './domains/agents/agents.jobs.js';
import type { AgentMoves } from './domains/agents/moves.js';
import { auditJobs } from './domains/audit/audit.jobs.js';
import type { Audit } from './domains/audit/audit.js';
import { fillPoolJob, measureJob, restJob } from './domains/deployments/deployments.jobs.js';
import type { Deployments } from './domains/deployments/deployments.js';
import type { Pool } from './domains/deployments/pool.js';
import type { Vitals } from './domains/deployments/vitals.js';
import { beatJob, pruneBeatsJob } from './domains/heartbeats/heartbeats.jobs.js';
import type { Heartbeats } from './domains/heartbeats/heartbeats.js';
import { pruneIdempotencyJob } from './domains/idempotency/idempotency.jobs.js';
import type { Idempotency } from './domains/idempotency/idempotency.js';
import { heartbeatJob } from './domains/installation/installation.js';
import { advanceRolloutsJob } from './domains/rollouts/rollouts.jobs.js';
import type { Rollouts } from './domains/rollouts/rollouts.js';
import { snapshotJobs } from './domains/snapshots/snapshots.jobs.js';
import type { Snapshots } from './domains/snapshots/snapshots.js';
import { pruneTrafficJob, recheckEgressJob, writeTrafficJob } from './domains/traffic/traffic.jobs.js';
import type { Traffic } from './domains/traffic/traffic.js';
import { usageJob } from './domains/usage/usage.jobs.js';
import type { Usage } from './domains/usage/usage.js';
import type { Job } from './lib/loop.js';
import type { EgressProxy } from './link/egress.js';
import type { LinkHost } from './link/host.js';

export interface JobParts {
  db: Database['db'];
  processId: string;
  audit: Audit;
  chats: { jobs: Job[] };
  deployments: Deployments;
  events: { jobs: Job[] };
  heartbeats: Heartbeats;
  idempotency: Idempotency;
  moves: AgentMoves;
  pool: Pool;
  rollouts: Rollouts;
  snapshots: Snapshots;
  traffic: Traffic;
  usage: Usage;
  vitals: Vitals;
  egress: EgressProxy;
  links: LinkHost;
}

/** What Berth does by itself now and then, in every process. What has to be woken is a loop of its own in `app.ts`. */
export function jobsOf(parts: JobParts, options: Pick<AppOptions, 'heartbeats' | 'rest' | 'snapshots' | 'vitals'>): Job[] {
  const { db, processId, audit, chats, deployments, egress, events, heartbeats, idempotency, links } = parts;
  const { moves, pool, rollouts, snapshots, traffic, usage, vitals } = parts;
  return [
    heartbeatJob(db, processId),
    beatJob(heartbeats, options.heartbeats?.everyMs),
    pruneBeatsJob(heartbeats),
    usageJob(usage),
    ...chats.jobs,
    pruneIdempotencyJob(idempotency),
    moveAgentsJob(moves),
    ...snapshotJobs(snapshots, options.snapshots?.everyMs),
    fillPoolJob(pool),
    advanceRolloutsJob(rollouts),
    restJob({ deployments, links, ...options.rest }),
    measureJob(vitals, options.vitals?.lookEveryMs),
    writeTrafficJob(traffic),
    pruneTrafficJob(traffic),
    ...events.jobs,
    recheckEgressJob(egress),
    ...auditJobs(audit),
  ];
}
