import { z } from '@hono/zod-openapi';

/** The query of every list. */
export const PageQuery = z.object({
  cursor: z.string().max(200).optional().openapi({ description: 'The `next_cursor` of an earlier answer.' }),
  limit: z.coerce.number().int().min(1).max(200).optional().openapi({ description: 'Rows at most; 50 unless told.' }),
  offset: z.coerce
    .number()
    .int()
    .min(0)
    .max(1_000_000)
    .optional()
    .openapi({ description: 'Rows to pass over; a cursor is cheaper.' }),
});

/** The answer of every list. */
export function pageAnswer<T extends z.ZodType>(row: T) {
  return z.object({
    data: z.array(row),
    pagination: z.object({
      next_cursor: z.string().nullable(),
      has_more: z.boolean(),
      total: z.number().int().nullable().openapi({ description: 'null where counting would cost more than the page.' }),
    }),
  });
}

/** `application/json` content with that schema: short for the routes. */
export function json<T extends z.ZodType>(description: string, schema: T) {
  return { description, content: { 'application/json': { schema } } };
}

/** A required JSON body with that schema. */
export function jsonBody<T extends z.ZodType>(schema: T) {
  return { required: true as const, content: { 'application/json': { schema } } };
}
