import { wrongField } from '../lib/errors.js';

/** A skill of the registry: `weather`, or `@steipete/weather` where several publishers have one. */
export interface SkillRef {
  slug: string;
  owner: string | undefined;
}

const SLUG = /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,199}$/;
const OWNER = /^[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?$/;

/** Reads `slug` or `@owner/slug`; `owner` may also be said apart. */
export function readRef(text: string, owner?: string): SkillRef {
  const match = /^(?:@?([^/]*)\/)?([^/]*)$/.exec(text.trim());
  const slug = match?.[2] ?? '';
  if (!match || !SLUG.test(slug) || slug.includes('..')) throw wrongField('path.slug', 'must be a slug, or @owner/slug');
  const said = match[1] === undefined ? undefined : readOwner(match[1], 'path.slug');
  const apart = owner === undefined ? undefined : readOwner(owner, 'owner');
  if (said !== undefined && apart !== undefined && said !== apart) throw wrongField('owner', 'is not that of the path');
  return { slug: slug.toLowerCase(), owner: said ?? apart };
}

export function refText({ slug, owner }: SkillRef): string {
  return owner === undefined ? slug : `@${owner}/${slug}`;
}

/** Handles are compared in lower case and without the @. */
export function plainOwner(handle: string | undefined): string | undefined {
  const plain = handle?.trim().replace(/^@+/, '').toLowerCase();
  return plain !== undefined && OWNER.test(plain) ? plain : undefined;
}

function readOwner(text: string, path: string): string {
  const plain = plainOwner(text);
  if (plain === undefined) throw wrongField(path, 'names no publisher: 1 to 40 of a-z, 0-9, ., _ and -');
  return plain;
}
