import { z } from '@hono/zod-openapi';
import { PageQuery, pageAnswer } from '../../http/page.js';
import { EventType } from '../events/events.schema.js';

const Url = z.string().min(1).max(2_000).openapi({ example: 'https://example.com/hooks/berth' });
const Types = z
  .array(EventType)
  .min(1)
  .max(50)
  .openapi({ description: 'Types, `agent.*`, or `*`.', example: ['agent.*'] });
const Description = z.string().max(200).nullable();
const Secret = z
  .string()
  .max(200)
  .openapi({ description: '`whsec_` and 24 to 64 random bytes as base64; made where it is not given.', writeOnly: true });

export const CreateWebhook = z
  .strictObject({
    url: Url,
    events: Types.optional().openapi({ description: 'All where it is not given.' }),
    secret: Secret.optional(),
    description: Description.optional(),
    enabled: z.boolean().optional(),
  })
  .openapi('CreateWebhook');
export type CreateWebhook = z.infer<typeof CreateWebhook>;

export const UpdateWebhook = z
  .strictObject({
    url: Url.optional(),
    events: Types.optional(),
    description: Description.optional(),
    enabled: z.boolean().optional().openapi({ description: 'What happens while it is false is not sent later.' }),
  })
  .openapi('UpdateWebhook');
export type UpdateWebhook = z.infer<typeof UpdateWebhook>;

export const RotateSecret = z
  .strictObject({
    secret: Secret.optional(),
    overlap_s: z
      .number()
      .int()
      .min(0)
      .max(7 * 86_400)
      .optional()
      .openapi({ description: 'For so long both secrets sign; a day unless told.' }),
  })
  .openapi('RotateWebhookSecret');
export type RotateSecret = z.infer<typeof RotateSecret>;

export const WebhookAnswer = z
  .object({
    id: z.string(),
    url: z.string(),
    description: z.string().nullable(),
    events: z.array(z.string()),
    enabled: z.boolean(),
    status: z.enum(['active', 'failing', 'disabled']),
    disabled_reason: z.string().nullable(),
    failing_since: z.iso.datetime().nullable(),
    old_secret_until: z.iso.datetime().nullable().openapi({ description: 'Until then the secret before this one signs too.' }),
    version: z.number().int(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .openapi('Webhook');
export type WebhookAnswer = z.infer<typeof WebhookAnswer>;

export const NewWebhookAnswer = WebhookAnswer.extend({
  secret: z.string().openapi({ description: 'Shown this once.' }),
}).openapi('NewWebhook');
export type NewWebhookAnswer = z.infer<typeof NewWebhookAnswer>;

export const WebhooksAnswer = pageAnswer(WebhookAnswer);

export const DeliveriesQuery = PageQuery.extend({ status: z.enum(['pending', 'delivered', 'failed']).optional() });

const Delivery = {
  id: z.string(),
  event_id: z.string(),
  type: z.string(),
  status: z.enum(['pending', 'delivered', 'failed']),
  attempts: z.number().int(),
  next_attempt_at: z.iso.datetime().nullable(),
  created_at: z.iso.datetime(),
  ended_at: z.iso.datetime().nullable(),
};
export const DeliveryAnswer = z.object(Delivery).openapi('WebhookDelivery');
export type DeliveryAnswer = z.infer<typeof DeliveryAnswer>;

export const DeliveriesAnswer = pageAnswer(DeliveryAnswer);

export const AttemptAnswer = z
  .object({
    n: z.number().int(),
    at: z.iso.datetime(),
    ms: z.number().int(),
    status: z.number().int().nullable().openapi({ description: 'Of the answer; null where none came.' }),
    error: z.string().nullable(),
    response: z.string().nullable().openapi({ description: 'The beginning of the answer.' }),
  })
  .openapi('WebhookAttempt');
export type AttemptAnswer = z.infer<typeof AttemptAnswer>;

export const DeliveryDetail = z
  .object({ ...Delivery, body: z.string().openapi({ description: 'As it is sent.' }), log: z.array(AttemptAnswer) })
  .openapi('WebhookDeliveryDetail');
export type DeliveryDetail = z.infer<typeof DeliveryDetail>;

export const TestAnswer = z
  .object({ delivered: z.boolean(), delivery_id: z.string(), attempt: AttemptAnswer })
  .openapi('WebhookTest');
export type TestAnswer = z.infer<typeof TestAnswer>;
