import { z } from '@hono/zod-openapi';
import { ID_PREFIXES } from '../../lib/ids.js';

/** Words that stand where a name can stand in a path. The architecture test adds every literal segment of the routes. */
export const RESERVED_NAMES = new Set(['me', 'memories', 'default', 'admin', 'berth', 'openclaw', 'new']);

/**
 * Name of a user or an agent: the rule for OpenClaw agent ids. It never begins as an id does, since the two share a path slot.
 */
export const ResourceName = z
  .string()
  .regex(/^[a-z0-9_][a-z0-9_-]{0,63}$/, 'must be 1 to 64 of a-z, 0-9, _ and -, and must not begin with -')
  .refine(
    (name) => !ID_PREFIXES.some((prefix) => name.startsWith(`${prefix}_`)),
    `must not begin like an id (${ID_PREFIXES.map((p) => `${p}_`).join(', ')})`,
  )
  .refine((name) => !RESERVED_NAMES.has(name), 'is a reserved word')
  .openapi({ example: 'manager' });
