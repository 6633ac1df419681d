import type { Context } from 'hono';

/** Scheme and host as the client reached this server, for links in answers. */
export function originOf(c: Context): string {
  return new URL(c.req.url).origin;
}
