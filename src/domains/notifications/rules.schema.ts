import { z } from '@hono/zod-openapi';
import { pageAnswer } from '../../http/page.js';
import { EventType } from '../events/events.schema.js';
import { RULE_KINDS } from './condition.js';
import { SeverityName } from './notifications.schema.js';
import type { RuleWithChannels } from './rules.store.js';

export const CHANNELS_AT_MOST = 20;
const MONTH_S = 31 * 86_400;

/** Without what would break a line of a mail's head, or hide in it. */
export const PlainName = z
  .string()
  .min(1)
  .max(100)
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]+$/u, 'must be one line of text')
  // JSON Schema's patterns are in Unicode anyhow, and have no flags.
  .openapi({ pattern: '^[^\\p{C}\\p{Zl}\\p{Zp}]+$' });

const fields = {
  agent: z.string().min(1).max(100).nullable().openapi({ description: 'Only what is about this agent, by id or name.' }),
  severity: SeverityName.openapi({ description: '`warning` unless told.' }),
  enabled: z.boolean(),
  channels: z.array(z.string().max(40)).max(CHANNELS_AT_MOST).openapi({ description: 'Ids; the inbox has it always.' }),
  events: z
    .array(EventType)
    .min(1)
    .max(50)
    .openapi({ description: 'Of `event`: types, `agent.*`, or `*`.', example: ['agent.*'] }),
  unit: z.enum(['tokens']).openapi({ description: 'Of `spend`.' }),
  at_least: z.number().positive().max(1e15).openapi({
    description:
      'It fires when what is measured comes to this: tokens, percent of turns that fail, containers that end unexpectedly.',
  }),
  window_s: z
    .number()
    .int()
    .min(60)
    .max(MONTH_S)
    .openapi({ description: 'Over how long it is measured; of `silence`, how long no turn and no heartbeat finishes.' }),
  min_turns: z
    .number()
    .int()
    .min(1)
    .max(1_000_000)
    .openapi({ description: 'Of `error_rate`: fewer say nothing; 5 unless told.' }),
  dedupe_s: z
    .number()
    .int()
    .min(10)
    .max(86_400)
    .openapi({ description: 'What happens again within so long is added to the notification that there is; 300 unless told.' }),
  repeat_after_s: z
    .number()
    .int()
    .min(60)
    .max(MONTH_S)
    .nullable()
    .openapi({ description: 'Said again where it still holds after so long; null: never.' }),
  notify_resolved: z.boolean().openapi({ description: 'Whether its end is said too; true unless told.' }),
};

const optional = {
  agent: fields.agent.optional(),
  severity: fields.severity.optional(),
  enabled: fields.enabled.optional(),
  channels: fields.channels.optional(),
  events: fields.events.optional(),
  unit: fields.unit.optional(),
  at_least: fields.at_least.optional(),
  window_s: fields.window_s.optional(),
  min_turns: fields.min_turns.optional(),
  dedupe_s: fields.dedupe_s.optional(),
  repeat_after_s: fields.repeat_after_s.optional(),
  notify_resolved: fields.notify_resolved.optional(),
};

export const CreateRule = z
  .strictObject({ name: PlainName, kind: z.enum(RULE_KINDS), ...optional })
  .openapi('CreateNotificationRule');
export type CreateRule = z.infer<typeof CreateRule>;

export const UpdateRule = z.strictObject({ name: PlainName.optional(), ...optional }).openapi('UpdateNotificationRule');
export type UpdateRule = z.infer<typeof UpdateRule>;

export const RuleAnswer = z
  .object({
    id: z.string(),
    name: z.string(),
    kind: z.enum(RULE_KINDS),
    severity: SeverityName,
    enabled: z.boolean(),
    agent_id: z.string().nullable(),
    channels: z.array(z.string()),
    events: z.array(z.string()).nullable(),
    unit: z.enum(['tokens']).nullable(),
    at_least: z.number().nullable(),
    window_s: z.number().int().nullable(),
    min_turns: z.number().int().nullable(),
    dedupe_s: z.number().int(),
    repeat_after_s: z.number().int().nullable(),
    notify_resolved: z.boolean(),
    state: z.enum(['ok', 'firing']),
    value: z.number().nullable().openapi({ description: 'As it was measured last.' }),
    fired_at: z.iso.datetime().nullable(),
    version: z.number().int(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .openapi('NotificationRule');
export type RuleAnswer = z.infer<typeof RuleAnswer>;

export const RulesAnswer = pageAnswer(RuleAnswer);

export function ruleAnswer(row: RuleWithChannels): RuleAnswer {
  const { id, name, kind, severity, enabled, agent_id, channels, condition, dedupe_s, repeat_after_s, notify_resolved } = row;
  return {
    id,
    name,
    kind,
    severity,
    enabled,
    agent_id,
    channels,
    events: condition.events ?? null,
    unit: condition.unit ?? null,
    at_least: condition.at_least ?? null,
    window_s: condition.window_s ?? null,
    min_turns: condition.min_turns ?? null,
    dedupe_s,
    repeat_after_s,
    notify_resolved,
    state: row.state,
    value: row.value,
    fired_at: row.fired_at?.toISOString() ?? null,
    version: row.version,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}
