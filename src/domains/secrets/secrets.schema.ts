import { z } from '@hono/zod-openapi';

/** Limits of secrets; docs/operations.md names them. A gateway takes 512 KiB of environment an agent, so that two scopes fit beside plain variables. */
export const MAX_VALUE_BYTES = 64 * 1024;
export const MAX_SCOPE_BYTES = 96 * 1024;
export const MAX_SCOPE_COUNT = 200;
/** Over all scopes of a user: what reading its logs has to look for. */
export const MAX_USER_BYTES = 2 * 1024 * 1024;
export const MAX_USER_COUNT = 4_000;

/** Names are the caller's, so that each is checked, and named in errors, by `wishes.ts`. */
export const PutSecrets = z
  .custom<Record<string, unknown>>(
    (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
    'must be an object of names and values',
  )
  .openapi('PutSecrets', {
    type: 'object',
    additionalProperties: {
      anyOf: [
        { type: 'string', description: 'The value as it is.' },
        {
          type: 'object',
          description: 'The value sealed under the public key, with `crypto_box_seal` of libsodium.',
          properties: { encrypted_value: { type: 'string', description: 'Base64.' }, key_id: { type: 'string' } },
          required: ['encrypted_value', 'key_id'],
          additionalProperties: false,
        },
        { type: 'null', description: 'Deletes it.' },
      ],
    },
    description: 'Environment variables by name. What is not named stays.',
    example: { GITHUB_TOKEN: 'example', OLD_KEY: null },
  });

export const PutQuery = z.object({
  shared: z
    .enum(['true', 'false'], { error: 'must be true or false' })
    .optional()
    .openapi({ description: 'true: the agent may have a secret of its own though it shares its container with others.' }),
});

export const SecretAnswer = z
  .object({
    id: z.string(),
    name: z.string(),
    scope: z.enum(['user', 'agent']),
    agent: z.string().nullable().openapi({ description: 'The agent whose own it is; null: of all agents of the user.' }),
    overrides: z.boolean().openapi({ description: "The agent's own, in the place of the user's of that name." }),
    last4: z.string().nullable().openapi({ description: 'The last four characters, of values with at least twelve.' }),
    readable: z
      .boolean()
      .openapi({ description: 'false: it does not open, since its row was altered or moved. Set it again, or delete it.' }),
    version: z.number().int().openapi({ description: 'Rises with every new value.' }),
    created_at: z.string(),
    updated_at: z.string(),
    last_used_at: z.string().nullable().openapi({ description: 'When an instance was last given it, to the minute.' }),
    last_used_by: z.string().nullable().openapi({ description: 'The agent it was given for.' }),
  })
  .openapi('Secret');
export type SecretAnswer = z.infer<typeof SecretAnswer>;

export const PutSecretsAnswer = z
  .object({
    data: z.array(SecretAnswer),
    changed: z.array(z.string()).openapi({ description: 'Names that are new or have a new value.' }),
    deleted: z.array(z.string()),
    version: z.number().int().openapi({ description: "Of all the user's secrets; also the ETag." }),
  })
  .openapi('PutSecretsAnswer');
export type PutSecretsAnswer = z.infer<typeof PutSecretsAnswer>;

export const PublicKeyAnswer = z
  .object({
    key_id: z.string(),
    key: z.string().openapi({ description: 'X25519 public key, base64, for `crypto_box_seal`.' }),
  })
  .openapi('SecretsPublicKey');
export type PublicKeyAnswer = z.infer<typeof PublicKeyAnswer>;
