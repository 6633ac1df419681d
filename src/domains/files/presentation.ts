import mime from 'mime';
import { nameIn } from './file-path.js';

/** What the registry of media types has for these belongs to other trades: `.ts` is a film there. */
const SOURCE_TEXT = new Set(
  'ts tsx mts cts jsx py rb rs go java kt swift c h cc cpp hpp cs php pl lua r sh bash zsh fish sql vue svelte log env ini cfg conf toml lock diff patch'.split(
    ' ',
  ),
);
const TEXT_OF_APPLICATION = /^application\/(?:json|ld\+json|manifest\+json|javascript|xml|yaml|toml|sql|[\w.-]+\+(?:json|xml))$/;
/** What a browser shows and never runs. All else is offered for download: the bytes are an agent's, and nobody trusts those. */
const SHOWN = /^(?:image\/(?:png|jpeg|gif|webp|avif|bmp)|audio\/.+|video\/.+|text\/(?:plain|csv|markdown)|application\/json)$/;
/** For what is shown in spite of it all: no scripts, no origin, no frame; styles, since browsers show pictures with one of their own. */
const SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/** The headers under which a file goes to a client that may be a browser. `downloadName`: what it asked for; true = its own name. */
export function presentation(path: string, downloadName: string | true | undefined): Record<string, string> {
  const name = nameIn(path);
  const type = mediaTypeOf(name);
  const shown = SHOWN.test(type.split(';', 1)[0] ?? '') && downloadName === undefined;
  return {
    'Content-Type': type,
    'Content-Disposition': disposition(shown ? 'inline' : 'attachment', typeof downloadName === 'string' ? downloadName : name),
    'Content-Security-Policy': SANDBOX,
    'X-Content-Type-Options': 'nosniff',
  };
}

/** By the name's extension; text is said to be UTF-8, as nearly all of it is. */
export function mediaTypeOf(name: string): string {
  const extension = /\.([^.]+)$/.exec(name)?.[1]?.toLowerCase() ?? '';
  if (SOURCE_TEXT.has(extension)) return 'text/plain; charset=utf-8';
  const type = mime.getType(name) ?? 'application/octet-stream';
  return type.startsWith('text/') || TEXT_OF_APPLICATION.test(type) ? `${type}; charset=utf-8` : type;
}

/** RFC 6266: a name in ASCII for old clients, the true one beside it (RFC 8187) where they differ. */
export function disposition(kind: 'inline' | 'attachment', name: string): string {
  // oxlint-disable-next-line no-control-regex
  const ascii = name.replace(/[^\u0020-\u007e]/gu, '_').replace(/["\\%]/g, '_');
  const plain = `${kind}; filename="${ascii}"`;
  if (ascii === name) return plain;
  const encoded = encodeURIComponent(name).replace(/['()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
  return `${plain}; filename*=UTF-8''${encoded}`;
}
