import { z } from '@hono/zod-openapi';
import { pageAnswer } from '../../http/page.js';
import { ACTIVE_HOURS_FIELDS } from '../configs/heartbeat.schema.js';
import type { ChannelRow } from './channels.store.js';
import { DAYS } from './quiet.js';
import { PlainName } from './rules.schema.js';

const QuietTimes = z
  .strictObject({
    from: ACTIVE_HOURS_FIELDS.start,
    to: ACTIVE_HOURS_FIELDS.end,
    days: z
      .array(z.enum(DAYS))
      .min(1)
      .max(DAYS.length)
      .optional()
      .openapi({ description: 'On which it begins; every day unless told.' }),
    time_zone: ACTIVE_HOURS_FIELDS.time_zone.optional(),
  })
  .refine(({ from, to }) => from !== to, { path: ['to'], message: 'must differ from from' })
  .nullable()
  .openapi({ description: 'When nothing is sent: it waits until the end. An end before the start is that of the next day.' });

/** Plain addresses only: no comments, no quotes, nothing that a mail's head could be broken with. */
const Address = z
  .string()
  .max(254)
  .regex(
    /^[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$/,
    'must be an e-mail address',
  )
  .openapi({ example: 'ada@example.com', description: 'Of `email`.' });
const Url = z
  .string()
  .min(1)
  .max(2_000)
  .openapi({ example: 'https://example.com/hooks/berth', description: 'Of `webhook` and `slack`.' });

const optional = {
  url: Url.optional(),
  address: Address.optional(),
  quiet: QuietTimes.optional(),
  critical_anytime: z
    .boolean()
    .optional()
    .openapi({ description: 'Whether what is critical is sent at quiet times too; true unless told.' }),
  enabled: z.boolean().optional(),
};

export const CreateChannel = z
  .strictObject({
    kind: z.enum(['webhook', 'slack', 'email']),
    name: PlainName,
    ...optional,
    secret: z.string().max(200).optional().openapi({
      description: 'Of `webhook`: `whsec_` and 24 to 64 random bytes as base64; made where it is not given.',
      writeOnly: true,
    }),
  })
  .openapi('CreateNotificationChannel');
export type CreateChannel = z.infer<typeof CreateChannel>;

export const UpdateChannel = z.strictObject({ name: PlainName.optional(), ...optional }).openapi('UpdateNotificationChannel');
export type UpdateChannel = z.infer<typeof UpdateChannel>;

export const ConfirmChannel = z.strictObject({ code: z.string().min(1).max(20) }).openapi('ConfirmNotificationChannel');
export type ConfirmChannel = z.infer<typeof ConfirmChannel>;

const Channel = {
  id: z.string(),
  kind: z.enum(['webhook', 'slack', 'email']),
  name: z.string(),
  target: z.string().openapi({ description: 'Where it goes, as far as it is shown.' }),
  enabled: z.boolean(),
  status: z.enum(['active', 'unconfirmed', 'failing', 'disabled']),
  disabled_reason: z.string().nullable(),
  failing_since: z.iso.datetime().nullable(),
  quiet: z
    .object({ from: z.string(), to: z.string(), days: z.array(z.enum(DAYS)).optional(), time_zone: z.string().optional() })
    .nullable(),
  critical_anytime: z.boolean(),
  version: z.number().int(),
  created_at: z.iso.datetime(),
  updated_at: z.iso.datetime(),
};
export const ChannelAnswer = z.object(Channel).openapi('NotificationChannel');
export type ChannelAnswer = z.infer<typeof ChannelAnswer>;

export const NewChannelAnswer = z
  .object({
    ...Channel,
    secret: z.string().optional().openapi({ description: 'Of `webhook`: shown this once.' }),
    code_sent: z.boolean().optional().openapi({ description: 'Of `email`: whether the code that confirms it was sent.' }),
  })
  .openapi('NewNotificationChannel');
export type NewChannelAnswer = z.infer<typeof NewChannelAnswer>;

export const ChannelsAnswer = pageAnswer(ChannelAnswer);
export const SentAnswer = z
  .object({ delivered: z.boolean(), error: z.string().nullable() })
  .openapi('NotificationSent', { description: 'What came of an attempt.' });
export type SentAnswer = z.infer<typeof SentAnswer>;

export function channelAnswer(row: ChannelRow): ChannelAnswer {
  return {
    id: row.id,
    kind: row.kind,
    name: row.name,
    target: row.target_hint,
    enabled: row.enabled,
    status: !row.enabled ? 'disabled' : !row.confirmed_at ? 'unconfirmed' : row.failing_since ? 'failing' : 'active',
    disabled_reason: row.disabled_reason,
    failing_since: row.failing_since?.toISOString() ?? null,
    quiet: row.quiet,
    critical_anytime: row.critical_anytime,
    version: row.version,
    created_at: row.created_at.toISOString(),
    updated_at: row.updated_at.toISOString(),
  };
}
