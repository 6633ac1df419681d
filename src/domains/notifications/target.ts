import { wrongField } from '../../lib/errors.js';
import type { Poster } from '../../link/outbound.js';
import type { ChannelKind } from './notifications.table.js';

export interface TargetWish {
  url?: string | undefined;
  address?: string | undefined;
}

/** Where a channel of that kind is to send; undefined where nothing was said of it. Throws what does not belong there or may not be sent to. */
export function targetOf(kind: ChannelKind, { url, address }: TargetWish, poster: Omit<Poster, 'post'>): string | undefined {
  if (kind === 'email') {
    if (url !== undefined) throw wrongField('url', 'is not for channels of kind email');
    return address;
  }
  if (address !== undefined) throw wrongField('address', `is not for channels of kind ${kind}`);
  return url === undefined ? undefined : checkedUrl(kind, url, poster);
}

/** What of a target may be shown: a path may hold a token, and an address names somebody. */
export function hintOf(kind: ChannelKind, target: string): string {
  if (kind !== 'email') return `${new URL(target).origin}/…`;
  return `${target.slice(0, 1)}…@${target.slice(target.lastIndexOf('@') + 1)}`;
}

function checkedUrl(kind: ChannelKind, text: string, poster: Omit<Poster, 'post'>): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url) throw wrongField('url', 'must be a URL');
  const refused = poster.refusal(url);
  if (refused !== undefined) throw wrongField('url', refused);
  if (kind === 'slack' && url.protocol !== 'https:' && !poster.isAllowed(url))
    throw wrongField('url', 'must begin with https://');
  return url.href;
}
