import { z } from '@hono/zod-openapi';

export const KeyParam = z
  .string()
  .max(64)
  .openapi({ param: { name: 'key', in: 'path' }, example: 'key_01kb3v6y1n4w0f8e5q2r7t9xzc' });

const KeyName = z
  .string()
  .min(1, 'must not be empty')
  .max(100, 'must have at most 100 characters')
  .regex(/^[^\u0000-\u001f\u007f-\u009f]*$/, 'must not contain control characters');

const ExpiresIn = z
  .number()
  .int('must be a whole number of seconds')
  .min(1, 'must be at least 1 second')
  .max(315_360_000, 'must be at most ten years (315360000 seconds)')
  .optional()
  .openapi({ description: 'Seconds until the key stops working. Unset: it does not expire.' });

export const CreateUserKey = z
  .strictObject({
    name: KeyName.optional(),
    kind: z.enum(['user', 'agent'], { error: 'must be user or agent' }).optional(),
    agent: z.string().max(64).optional().openapi({ description: 'Name or id of the agent; required for an agent key.' }),
    expires_in_s: ExpiresIn,
  })
  .openapi('CreateKey');
export type CreateUserKey = z.infer<typeof CreateUserKey>;

export const CreateAdminKey = z.strictObject({ name: KeyName.optional(), expires_in_s: ExpiresIn }).openapi('CreateAdminKey');
export type CreateAdminKey = z.infer<typeof CreateAdminKey>;

export const KeyAnswer = z
  .object({
    id: z.string(),
    kind: z.enum(['admin', 'user', 'agent']),
    name: z.string(),
    agent_id: z.string().nullable(),
    masked: z.string().openapi({ example: 'berth_usr_…x7Qw' }),
    status: z.enum(['active', 'expired', 'revoked']),
    expires_at: z.string().nullable(),
    revoked_at: z.string().nullable(),
    created_at: z.string(),
  })
  .openapi('Key');
export type KeyAnswer = z.infer<typeof KeyAnswer>;

export const NewKeyAnswer = KeyAnswer.extend({
  api_key: z.string().openapi({ description: 'The key itself. Shown this once: Berth keeps only a digest.' }),
}).openapi('NewKey');
export type NewKeyAnswer = z.infer<typeof NewKeyAnswer>;
