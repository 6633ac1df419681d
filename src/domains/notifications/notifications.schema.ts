import { z } from '@hono/zod-openapi';
import { PageQuery, pageAnswer } from '../../http/page.js';
import type { NotificationRow } from './notifications.store.js';

export const SeverityName = z.enum(['info', 'warning', 'critical']);

const Notification = {
  id: z.string(),
  rule_id: z.string().nullable().openapi({ description: 'null: it is of Berth itself.' }),
  kind: z.enum(['event', 'firing', 'resolved', 'notice']),
  severity: SeverityName,
  title: z.string(),
  text: z.string(),
  agent_id: z.string().nullable(),
  data: z.record(z.string(), z.unknown()),
  count: z.number().int().openapi({ description: 'How often it happened since.' }),
  read: z.boolean(),
  created_at: z.iso.datetime(),
  last_at: z.iso.datetime(),
};
export const NotificationAnswer = z.object(Notification).openapi('Notification');
export type NotificationAnswer = z.infer<typeof NotificationAnswer>;

export const NotificationDetail = z
  .object({
    ...Notification,
    deliveries: z.array(
      z.object({
        id: z.string(),
        channel_id: z.string(),
        status: z.enum(['pending', 'delivered', 'failed']),
        tries: z.number().int(),
        error: z.string().nullable().openapi({ description: 'What the last attempt came to.' }),
        next_at: z.iso.datetime().nullable(),
        ended_at: z.iso.datetime().nullable(),
      }),
    ),
  })
  .openapi('NotificationDetail');
export type NotificationDetail = z.infer<typeof NotificationDetail>;

export const NotificationsAnswer = pageAnswer(NotificationAnswer);
export const NotificationsQuery = PageQuery.extend({
  unread: z.enum(['true', 'false']).optional().openapi({ description: 'Only what was not read.' }),
});
export const UnreadAnswer = z.object({ count: z.number().int() }).openapi('UnreadNotifications');
export const ReadAllAnswer = z
  .object({ count: z.number().int().openapi({ description: 'How many were unread.' }) })
  .openapi('ReadNotifications');

export function notificationAnswer(row: NotificationRow): NotificationAnswer {
  const { id, rule_id, kind, severity, title, text, agent_id, data, count } = row;
  return {
    id,
    rule_id,
    kind,
    severity,
    title,
    text,
    agent_id,
    data,
    count,
    read: row.read_at !== null,
    created_at: row.created_at.toISOString(),
    last_at: row.last_at.toISOString(),
  };
}
