import type { Migration } from 'kysely';
import * as spine from './0001_spine.js';
import * as templates from './0002_templates.js';
import * as secrets from './0003_secrets.js';
import * as skills from './0004_skills.js';
import * as plugins from './0005_plugins.js';
import * as configs from './0006_configs.js';
import * as heartbeats from './0007_heartbeats.js';
import * as sleep from './0008_sleep.js';
import * as idle from './0009_idle.js';
import * as pool from './0010_pool.js';
import * as replacement from './0011_replacement.js';
import * as snapshots from './0012_snapshots.js';
import * as revisions from './0013_revisions.js';
import * as limits from './0014_limits.js';
import * as events from './0015_events.js';
import * as webhooks from './0016_webhooks.js';
import * as journal from './0017_journal.js';
import * as logs from './0018_logs.js';
import * as audit from './0019_audit.js';
import * as endedInstances from './0021_ended_instances.js';
import * as notifications from './0022_notifications.js';
import * as eventHorizon from './0023_event_horizon.js';
import * as beatMarks from './0024_beat_marks.js';

/** Every migration in its order. One that has landed is never edited. */
export const migrations: Record<string, Migration> = {
  '0001_spine': spine,
  '0002_templates': templates,
  '0003_secrets': secrets,
  '0004_skills': skills,
  '0005_plugins': plugins,
  '0006_configs': configs,
  '0007_heartbeats': heartbeats,
  '0008_sleep': sleep,
  '0009_idle': idle,
  '0010_pool': pool,
  '0011_replacement': replacement,
  '0012_snapshots': snapshots,
  '0013_revisions': revisions,
  '0014_limits': limits,
  '0015_events': events,
  '0016_webhooks': webhooks,
  '0017_journal': journal,
  '0018_logs': logs,
  '0019_audit': audit,
  '0021_ended_instances': endedInstances,
  '0022_notifications': notifications,
  '0023_event_horizon': eventHorizon,
  '0024_beat_marks': beatMarks,
};
