import { z } from '@hono/zod-openapi';

export const RotationAnswer = z
  .object({
    id: z.string().nullable(),
    state: z.enum(['none', 'preparing', 'sealing', 'finishing', 'done']).openapi({
      description:
        'none: there never was one. preparing: until every Berth process has the new key. sealing: data keys and the rest are sealed anew. finishing: it becomes the key.',
    }),
    reason: z.string().nullable().openapi({ description: 'What it waits for, if it waits.' }),
    from_key: z.string().nullable().openapi({ description: 'Id of the key before; ids tell nothing about keys.' }),
    to_key: z.string().nullable(),
    total: z.number().int().openapi({ description: 'Things to be sealed anew, as counted at the beginning.' }),
    sealed: z.number().int(),
    percent: z.number().int(),
    started_at: z.string().nullable(),
    ended_at: z.string().nullable(),
  })
  .openapi('VaultRotation');
export type RotationAnswer = z.infer<typeof RotationAnswer>;
