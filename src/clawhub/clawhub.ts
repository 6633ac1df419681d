import { AppError } from '../lib/errors.js';
import { Exchange, type ExchangeLimits, type Reply } from './exchange.js';
import { failureOf } from './failure.js';
import { plainOwner, readRef, refText, type SkillRef } from './ref.js';
import { isRecord, listAt, type Loose, numberAt, recordAt, textAt } from './shapes.js';
import { noVerdict, readVerdict, type Verdict } from './verdict.js';

export type { SkillRef } from './ref.js';
export type { Verdict } from './verdict.js';

/** A row of a search. */
export interface FoundSkill {
  slug: string;
  /** `@owner/slug`, as it can be installed. */
  reference: string;
  owner: string | null;
  name: string;
  summary: string | null;
  version: string | null;
  downloads: number | null;
  updated_at: string | null;
}

/** One version of a skill, and where its archive is. */
export interface Resolved {
  slug: string;
  owner: string | undefined;
  version: string;
  archive: URL;
}

export interface ClawHubOptions {
  url: string;
  limits?: Partial<ExchangeLimits> | undefined;
  /** Addresses and networks that it must not send us to, besides those of no public use. */
  deny?: string[];
}

const JSON_BYTES = 2_000_000;
/** The registry's own bound. */
const ARCHIVE_BYTES = 50_000_000;
/** Archives are held in memory while they are read. */
const DOWNLOADS_AT_ONCE = 4;

/** Client of a skill registry that speaks ClawHub's protocol (`/api/v1`). Reads only, without a token. */
export class ClawHub {
  /** As it is written into the origin of what comes from there. */
  readonly url: string;
  readonly #exchange: Exchange;
  #downloads = 0;

  constructor({ url, limits, deny }: ClawHubOptions) {
    this.url = url.replace(/\/+$/, '');
    this.#exchange = new Exchange(new URL(url), { limits, deny });
  }

  /** Reads `slug` or `@owner/slug`; throws `invalid_request`. */
  readRef(text: string, owner?: string): SkillRef {
    return readRef(text, owner);
  }

  async search(query: string, limit: number, signal?: AbortSignal): Promise<FoundSkill[]> {
    const answer = await this.#json(this.#at('/search', { q: query, limit: String(limit) }), signal);
    return listAt(answer, 'results')
      .flatMap((row) => foundOf(row) ?? [])
      .slice(0, limit);
  }

  /** Finds the version that is meant: the one named, the one with the tag, or the newest. */
  async resolve(
    ref: SkillRef,
    wish: { version?: string | undefined; tag?: string | undefined },
    signal?: AbortSignal,
  ): Promise<Resolved> {
    const detail = await this.#json(this.#at(`/skills/${encodeURIComponent(ref.slug)}`, ownerQuery(ref.owner)), signal);
    if (recordAt(detail, 'moderation')?.['isMalwareBlocked'] === true)
      throw new AppError('forbidden', 'the registry refuses the skill: it is flagged as malicious');
    const skill = recordAt(detail, 'skill');
    const slug = textAt(skill, 'slug')?.toLowerCase();
    if (slug === undefined) throw lying('names no skill');
    const owner = plainOwner(textAt(recordAt(detail, 'owner'), 'handle')) ?? ref.owner;
    if (ref.owner !== undefined && owner !== ref.owner) throw lying('answers with the skill of another publisher');
    const version = wish.version ?? (wish.tag === undefined ? undefined : taggedVersion(skill, wish.tag));
    if (version === undefined) return this.#newest({ slug, owner }, signal);
    return { slug, owner, version, archive: this.#at('/download', { slug, ...ownerQuery(owner), version }) };
  }

  /** What the registry thinks of exactly this version. Throws where it does not say. */
  async verdict({ slug, owner, version }: Resolved, signal?: AbortSignal): Promise<Verdict> {
    const item = { slug, ...(owner === undefined ? {} : { ownerHandle: owner }), version };
    const url = this.#at('/skills/-/security-verdicts');
    const reply = await this.#exchange.ask({ method: 'POST', url, body: { items: [item] }, limitBytes: JSON_BYTES, signal });
    // A registry that judges nothing: its 404 says nothing about the skill.
    if ([404, 405, 501].includes(reply.status)) throw noVerdict('gives no security verdict');
    return readVerdict(jsonOf(reply), { slug, owner, version });
  }

  /** The checksums of a version's files, by path. */
  async checksums({ slug, owner, version }: Resolved, signal?: AbortSignal): Promise<Map<string, string>> {
    const path = `/skills/${encodeURIComponent(slug)}/versions/${encodeURIComponent(version)}`;
    const said = recordAt(await this.#json(this.#at(path, ownerQuery(owner)), signal), 'version');
    if (textAt(said, 'version') !== version) throw lying('answers with another version');
    const files = listAt(said, 'files').flatMap((file) => {
      const [name, sha256] = [textAt(file, 'path'), textAt(file, 'sha256')];
      return name !== undefined && sha256 !== undefined ? [[name, sha256.toLowerCase()] as const] : [];
    });
    if (files.length === 0) throw lying('names no checksums');
    return new Map(files);
  }

  /** The zip of a version. */
  async download({ archive }: Resolved, signal?: AbortSignal): Promise<Buffer> {
    if (this.#downloads >= DOWNLOADS_AT_ONCE)
      throw new AppError('unavailable', 'too many downloads from the registry at once', { retryAfterS: 5 });
    this.#downloads += 1;
    try {
      const reply = await this.#exchange.ask({ method: 'GET', url: archive, limitBytes: ARCHIVE_BYTES, signal });
      if (reply.status !== 200) throw failureOf(reply);
      if (/json/i.test(String(reply.headers['content-type']))) throw notHosted();
      return reply.bytes;
    } finally {
      this.#downloads -= 1;
    }
  }

  /** The newest version, as the registry says to one who has files of that fingerprint. */
  async latest(ref: SkillRef, fingerprint: string, signal?: AbortSignal): Promise<string> {
    const query = { slug: ref.slug, ...ownerQuery(ref.owner), hash: fingerprint };
    const latest = textAt(recordAt(await this.#json(this.#at('/resolve', query), signal), 'latestVersion'), 'version');
    if (latest === undefined) throw new AppError('not_found', 'the registry has no version of the skill any more');
    return latest;
  }

  async #newest(ref: SkillRef, signal: AbortSignal | undefined): Promise<Resolved> {
    const { slug, owner } = ref;
    const answer = await this.#json(this.#at(`/skills/${encodeURIComponent(slug)}/install`, ownerQuery(owner)), signal);
    if (isRecord(answer) && answer['ok'] === false) throw failureOf(refusalIn(answer));
    if (textAt(answer, 'installKind') === 'github') throw notHosted();
    const archive = recordAt(answer, 'archive');
    const [version, url] = [textAt(archive, 'version'), textAt(archive, 'downloadUrl')];
    if (version === undefined || url === undefined || !URL.canParse(url, this.url))
      throw lying(`does not say how to install ${refText(ref)}`);
    return { slug, owner, version, archive: new URL(url, this.url) };
  }

  async #json(url: URL, signal: AbortSignal | undefined): Promise<unknown> {
    return jsonOf(await this.#exchange.ask({ method: 'GET', url, limitBytes: JSON_BYTES, signal }));
  }

  #at(path: string, query: Record<string, string> = {}): URL {
    const url = new URL(`${this.url}/api/v1${path}`);
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    return url;
  }
}

function ownerQuery(owner: string | undefined): { ownerHandle?: string } {
  return owner === undefined ? {} : { ownerHandle: owner };
}

function taggedVersion(skill: Loose | undefined, tag: string): string {
  const tags = recordAt(skill, 'tags');
  const version = tags && Object.hasOwn(tags, tag) ? textAt(tags, tag) : undefined;
  if (version === undefined) throw new AppError('not_found', 'the registry has no version of the skill with that tag');
  return version;
}

/** A refusal that came with status 200. */
function refusalIn(answer: Loose): Reply {
  return {
    status: numberAt(answer, 'status') ?? 409,
    headers: {},
    bytes: Buffer.from(JSON.stringify({ message: textAt(answer, 'message') })),
  };
}

function foundOf(row: unknown): FoundSkill | undefined {
  const slug = textAt(row, 'slug');
  const source = textAt(row, 'source') ?? 'clawhub';
  if (slug === undefined || source !== 'clawhub') return undefined;
  const owner = plainOwner(textAt(row, 'ownerHandle') ?? textAt(recordAt(row, 'owner'), 'handle'));
  const updated = numberAt(row, 'updatedAt');
  return {
    slug,
    reference: refText({ slug, owner }),
    owner: owner ?? null,
    name: textAt(row, 'displayName') ?? slug,
    summary: textAt(row, 'summary') ?? null,
    version: textAt(row, 'version') ?? null,
    downloads: numberAt(row, 'downloads') ?? null,
    updated_at: updated !== undefined && Math.abs(updated) < 8.64e15 ? new Date(updated).toISOString() : null,
  };
}

function jsonOf(reply: Reply): unknown {
  if (reply.status !== 200) throw failureOf(reply);
  try {
    return JSON.parse(reply.bytes.toString('utf8'));
  } catch (error) {
    throw new AppError('upstream_error', "the registry's answer is not JSON", { cause: error });
  }
}

function lying(what: string): AppError {
  return new AppError('upstream_error', `the registry ${what}`);
}

function notHosted(): AppError {
  return new AppError('conflict', 'the registry has no archive of the skill, only a place on GitHub: upload it from there');
}
