import { z } from '@hono/zod-openapi';
import { ResourceName } from '../agents/names.js';
import { NewAgentAnswer } from '../agents/agents.schema.js';
import { AgentSettings, StoredContents } from './archive.schema.js';
import { LEAST_EVERY_S } from './schedule.js';

const plainText = (limit: number) =>
  z
    .string()
    .max(limit, `must have at most ${limit} characters`)
    .refine((text) => !text.includes('\0'), 'must not contain NUL');
export const SnapshotId = z
  .string()
  .regex(/^snp_[0-9a-z]{26}$/, 'must be the id of a snapshot')
  .openapi({ example: 'snp_01kb0000000000000000000000' });

export const TakeSnapshot = z.strictObject({ note: plainText(1_000).optional() }).openapi('TakeSnapshot');

export const SnapshotAnswer = z
  .object({
    id: z.string(),
    agent_id: z.string(),
    agent: z.string().openapi({ description: 'Its name when the snapshot was asked for.' }),
    kind: z.enum(['manual', 'scheduled', 'before_restore', 'duplicate', 'last', 'imported']),
    state: z.enum(['pending', 'ready', 'failed']),
    reason: z.string().nullable().openapi({ description: 'Why it has failed, or why it was not taken yet.' }),
    note: z.string().nullable(),
    bytes: z.number().int().openapi({ description: 'On disk, sealed.' }),
    contents: StoredContents.nullable().openapi({ description: 'What is in it, and what an export of it is.' }),
    created_at: z.string(),
    taken_at: z.string().nullable(),
    expires_at: z.string().nullable(),
  })
  .openapi('Snapshot');
export type SnapshotAnswer = z.infer<typeof SnapshotAnswer>;

export const SnapshotDetail = SnapshotAnswer.extend({ settings: AgentSettings }).openapi('SnapshotDetail');
export type SnapshotDetail = z.infer<typeof SnapshotDetail>;

export const RestoreSnapshot = z
  .strictObject({
    keep_current: z
      .boolean()
      .optional()
      .openapi({ description: 'Take a snapshot of what is there first, so that the restore can be undone. True unless told.' }),
  })
  .openapi('RestoreSnapshot');

export const RestoreAnswer = z
  .object({
    id: z.string(),
    agent_id: z.string(),
    snapshot_id: z.string().nullable(),
    before_id: z.string().nullable().openapi({ description: 'The snapshot of what was there before.' }),
    kind: z.enum(['in_place', 'duplicate', 'imported', 'undelete']),
    state: z.enum(['pending', 'done', 'failed']),
    reason: z.string().nullable(),
    left_out: z
      .array(z.object({ what: z.string(), why: z.string() }))
      .openapi({ description: 'Settings that the agent could not be given here.' }),
    turns_removed: z
      .number()
      .int()
      .nullable()
      .openapi({ description: 'Turns that came after the snapshot and are in the journal no more.' }),
    created_at: z.string(),
    ended_at: z.string().nullable(),
  })
  .openapi('Restore');
export type RestoreAnswer = z.infer<typeof RestoreAnswer>;

export const DuplicateAgent = z
  .strictObject({
    name: ResourceName.optional().openapi({ description: 'Unless told, the name of the agent with `-copy` after it.' }),
    state: z.boolean().optional().openapi({ description: 'With its workspace, memory and conversations. True unless told.' }),
    snapshot: SnapshotId.optional().openapi({ description: 'Of that snapshot rather than of now.' }),
  })
  .refine((wish) => !(wish.state === false && wish.snapshot !== undefined), {
    path: ['snapshot'],
    message: 'must not be there without state',
  })
  .openapi('DuplicateAgent');
export type DuplicateAgent = z.infer<typeof DuplicateAgent>;

/** An agent that is there, and whose state comes. */
export const ArrivingAgent = NewAgentAnswer.extend({ restore: RestoreAnswer }).openapi('ArrivingAgent');
export type ArrivingAgent = z.infer<typeof ArrivingAgent>;

export const UndeleteAgent = z
  .strictObject({ name: ResourceName.optional().openapi({ description: 'Another name, where its own is taken by now.' }) })
  .openapi('UndeleteAgent');

export const DeletedAgent = z
  .object({
    id: z.string(),
    name: z.string(),
    deleted_at: z.string(),
    expires_at: z.string().nullable(),
    snapshot: SnapshotAnswer,
  })
  .openapi('DeletedAgent');
export type DeletedAgent = z.infer<typeof DeletedAgent>;

export const WriteSchedule = z
  .strictObject({
    cron: z.string().max(200).optional().openapi({ description: 'Five fields.', example: '0 3 * * *' }),
    time_zone: z
      .string()
      .max(64)
      .refine(isTimeZone, 'must be a time zone, such as Europe/Berlin')
      .optional()
      .openapi({ description: 'Of `cron`; UTC unless told.' }),
    every_s: z
      .number()
      .int()
      .min(LEAST_EVERY_S)
      .max(366 * 86_400)
      .optional(),
    keep: z.number().int().min(1).max(100).openapi({ description: 'How many of those that this makes are kept.' }),
  })
  .refine((wish) => (wish.cron === undefined) !== (wish.every_s === undefined), {
    path: ['cron'],
    message: 'either cron or every_s must be there',
  })
  .openapi('WriteSnapshotSchedule');
export type WriteSchedule = z.infer<typeof WriteSchedule>;

export const ScheduleAnswer = z
  .object({
    cron: z.string().nullable(),
    time_zone: z.string().nullable(),
    every_s: z.number().int().nullable(),
    keep: z.number().int(),
    next_at: z.string(),
    updated_at: z.string(),
  })
  .openapi('SnapshotSchedule');
export type ScheduleAnswer = z.infer<typeof ScheduleAnswer>;

function isTimeZone(name: string): boolean {
  try {
    Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}
