import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { zip, type ZipEntry } from './archives.js';

/** A version as its publisher uploaded it. */
export interface FakeVersion {
  version: string;
  files: Record<string, string>;
  tags?: string[];
  /** What a scanner found. */
  status?: 'clean' | 'suspicious' | 'malicious' | 'pending' | 'error';
  reasons?: string[];
  /** Taken back by its publisher. */
  deleted?: boolean;
}

export interface FakeSkill {
  owner: string;
  slug: string;
  versions: FakeVersion[];
  /** What a moderator did. */
  moderation?: 'malicious' | 'hidden' | 'pending' | 'removed';
}

type Handler = (request: IncomingMessage, response: ServerResponse, url: URL) => void | Promise<void>;

const BLOCKS = {
  malicious: [403, 'Blocked: this skill has been flagged as malicious by ClawScan and cannot be downloaded.'],
  hidden: [403, 'This skill is currently unavailable.'],
  pending: [423, 'This skill is pending a ClawScan security review. Please try again in a few minutes.'],
  removed: [410, 'This skill has been removed by a moderator.'],
} as const;

const PUBLISHED_AT = 1_760_000_000_000;

/**
 * A skill registry that answers as ClawHub does: zips with a `_meta.json`, errors in plain text, 409 where publishers share a slug, verdicts with
 * an overview and an audit page. That it is true is shown by the published client, which installs from it.
 */
export class FakeClawHub {
  readonly skills: FakeSkill[] = [];
  /** Every request, as `METHOD path?query`. */
  readonly asked: string[] = [];
  /** Answers in place of the registry where the path begins so. */
  readonly instead = new Map<string, Handler>();
  readonly #server: Server;

  private constructor() {
    this.#server = createServer((request, response) => void this.#serve(request, response));
  }

  static async start(...skills: FakeSkill[]): Promise<FakeClawHub> {
    const registry = new FakeClawHub();
    registry.skills.push(...skills);
    await new Promise<void>((resolve) => registry.#server.listen(0, '127.0.0.1', resolve));
    return registry;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  /** The zip of a version, as it is downloaded. */
  archive(skill: FakeSkill, { version, files }: FakeVersion): Buffer {
    const meta = { ownerId: `users:${skill.owner}`, slug: skill.slug, version, publishedAt: PUBLISHED_AT };
    const entries: ZipEntry[] = Object.entries(files)
      .toSorted(([a], [b]) => a.localeCompare(b))
      .map(([name, bytes]) => ({ name, bytes }));
    return zip([...entries, { name: '_meta.json', bytes: JSON.stringify(meta, null, 2) }]);
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', this.url);
    this.asked.push(`${request.method} ${url.pathname}${url.search}`);
    response.setHeader('RateLimit-Limit', '3000').setHeader('RateLimit-Reset', '60');
    const instead = [...this.instead].find(([path]) => url.pathname.startsWith(path));
    if (instead) return instead[1](request, response, url);
    const [, , , kind = '', slug = '', third = '', fourth = ''] = url.pathname.split('/').map(decodeURIComponent);
    if (url.pathname === '/.well-known/clawhub.json')
      return json(response, { apiBase: this.url, authBase: this.url, minCliVersion: '0.1.0', registry: this.url });
    if (!url.pathname.startsWith('/api/v1/')) return text(response, 404, 'Not found');
    if (kind === 'search') return this.#search(response, url);
    if (kind === 'resolve')
      return this.#with(response, url, url.searchParams.get('slug') ?? '', (skill) => this.#resolve(response, url, skill));
    if (kind === 'download')
      return this.#with(response, url, url.searchParams.get('slug') ?? '', (skill) => this.#download(response, url, skill));
    if (kind !== 'skills') return text(response, 404, 'Not found');
    if (slug === '-' && third === 'security-verdicts' && request.method === 'POST') return this.#verdicts(request, response);
    return this.#with(response, url, slug, (skill) => {
      if (third === '') return this.#detail(response, skill);
      if (third === 'install') return this.#install(response, skill);
      if (third === 'versions' && fourth !== '') return this.#version(response, skill, fourth);
      if (third === 'versions')
        return json(response, {
          items: skill.versions.map(({ version }) => ({ version, createdAt: PUBLISHED_AT, changelog: '' })),
          nextCursor: null,
        });
      return text(response, 404, 'Not found');
    });
  }

  #with(response: ServerResponse, url: URL, slug: string, act: (skill: FakeSkill) => void): void {
    const owner = url.searchParams.get('ownerHandle')?.replace(/^@/, '').toLowerCase();
    const found = this.skills.filter(
      (skill) => skill.slug === slug.toLowerCase() && (owner === undefined || skill.owner === owner),
    );
    if (found.length === 1) return act(found[0]!);
    if (found.length === 0) return text(response, 404, 'Skill not found');
    if (url.pathname.endsWith('/download'))
      return text(
        response,
        409,
        `Ambiguous skill slug "${slug}". Multiple publishers use this slug. Retry with ownerHandle, for example: ${url.pathname}?slug=${slug}&ownerHandle=<owner>.`,
      );
    const matches = found.map((skill) => ({
      ownerHandle: skill.owner,
      slug,
      ref: `@${skill.owner}/${slug}`,
      url: `${this.url}/${skill.owner}/skills/${slug}`,
    }));
    json(
      response,
      {
        code: 'AMBIGUOUS_SKILL_SLUG',
        message: `Found multiple skills with the slug "${slug}"; specify which one you want to install:`,
        slug,
        matches,
      },
      409,
    );
  }

  #search(response: ServerResponse, url: URL): void {
    const words = url.searchParams.get('q') ?? '';
    if (words === '') return text(response, 400, 'Missing query');
    const found = this.skills.filter(({ slug }) => slug.includes(words.toLowerCase()));
    const results = found.map((skill) => {
      const owner = { handle: skill.owner, displayName: skill.owner, image: null };
      const install = { kind: 'clawhub', reference: `@${skill.owner}/${skill.slug}`, sourceUrl: null };
      const common = {
        slug: skill.slug,
        displayName: skill.slug,
        summary: `About ${skill.slug}`,
        version: newestOf(skill)?.version ?? null,
      };
      return {
        score: 0.9,
        ...common,
        updatedAt: PUBLISHED_AT,
        downloads: 7,
        ownerHandle: skill.owner,
        owner,
        source: 'clawhub',
        install,
      };
    });
    json(response, { results: [...results, { score: 0.1, slug: 'elsewhere', source: 'skills-sh', ownerHandle: null }] });
  }

  #detail(response: ServerResponse, skill: FakeSkill): void {
    if (skill.moderation === 'removed') return text(response, 410, BLOCKS.removed[1]);
    const latest = newestOf(skill);
    const tags = Object.fromEntries([
      ['latest', latest?.version],
      ...skill.versions.flatMap(({ version, tags: said = [] }) => said.map((tag) => [tag, version])),
    ]);
    const malicious = skill.moderation === 'malicious';
    json(response, {
      skill: {
        slug: skill.slug,
        displayName: skill.slug,
        summary: null,
        topics: [],
        tags,
        stats: {},
        createdAt: PUBLISHED_AT,
        updatedAt: PUBLISHED_AT,
      },
      latestVersion: latest ? { version: latest.version, createdAt: PUBLISHED_AT, changelog: '', license: 'MIT-0' } : null,
      metadata: null,
      owner: { handle: skill.owner, displayName: skill.owner, image: null },
      moderation: malicious
        ? { isSuspicious: false, isMalwareBlocked: true, verdict: 'malicious', reasonCodes: ['malware'] }
        : null,
    });
  }

  #install(response: ServerResponse, skill: FakeSkill): void {
    const block = skill.moderation && BLOCKS[skill.moderation];
    if (block)
      return json(
        response,
        { ok: false, slug: skill.slug, reason: 'archive_blocked', message: block[1], status: block[0] },
        block[0],
      );
    const latest = newestOf(skill);
    if (!latest)
      return json(
        response,
        {
          ok: false,
          slug: skill.slug,
          reason: 'archive_version_missing',
          message: 'Hosted skill has no downloadable version.',
          status: 409,
        },
        409,
      );
    const downloadUrl = `${this.url}/api/v1/download?slug=${skill.slug}&ownerHandle=${skill.owner}&version=${latest.version}`;
    json(response, { ok: true, slug: skill.slug, installKind: 'archive', archive: { version: latest.version, downloadUrl } });
  }

  #version(response: ServerResponse, skill: FakeSkill, wanted: string): void {
    const found = skill.versions.find(({ version }) => version === wanted);
    if (!found) return text(response, 404, 'Version not found');
    if (found.deleted) return text(response, 410, 'Version not available');
    const files = Object.entries(found.files).map(([path, content]) => ({
      path,
      size: content.length,
      sha256: sha256(content),
      contentType: 'text/plain',
    }));
    const version = { version: wanted, createdAt: PUBLISHED_AT, changelog: '', changelogSource: null, license: null, files };
    json(response, { skill: { slug: skill.slug, displayName: skill.slug }, version });
  }

  #resolve(response: ServerResponse, url: URL, skill: FakeSkill): void {
    const hash = url.searchParams.get('hash');
    const match = skill.versions.find((version) => fingerprintOf(version.files) === hash);
    json(response, {
      slug: skill.slug,
      match: match ? { version: match.version } : null,
      latestVersion: newestOf(skill) ? { version: newestOf(skill)!.version } : null,
    });
  }

  #download(response: ServerResponse, url: URL, skill: FakeSkill): void {
    const wanted = url.searchParams.get('version') ?? newestOf(skill)?.version;
    const found = skill.versions.find(({ version }) => version === wanted);
    if (!found) return text(response, 404, 'Version not found');
    if (found.deleted) return text(response, 410, 'Version not available');
    const block = skill.moderation && BLOCKS[skill.moderation];
    if (block) return text(response, block[0], block[1]);
    response.setHeader('Content-Type', 'application/zip');
    response.setHeader('Content-Disposition', `attachment; filename="${skill.slug}-${found.version}.zip"`);
    response.end(this.archive(skill, found));
  }

  async #verdicts(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const { items } = JSON.parse(Buffer.concat(chunks).toString()) as {
      items: { slug: string; ownerHandle?: string; version: string }[];
    };
    json(response, { schema: 'clawhub.skill.security-verdicts.v1', items: items.map((item) => this.#verdict(item)) });
  }

  #verdict(item: { slug: string; ownerHandle?: string; version: string }): object {
    const skill = this.skills.find(({ slug, owner }) => slug === item.slug && (item.ownerHandle ?? owner) === owner);
    const found = skill?.versions.find(({ version }) => version === item.version);
    const asked = {
      requestedSlug: item.slug,
      requestedOwnerHandle: item.ownerHandle,
      requestedVersion: item.version,
      slug: item.slug,
    };
    if (!skill || !found || found.deleted) {
      const error = found
        ? { code: 'version_unavailable', message: 'Version not available' }
        : { code: 'version_not_found', message: 'Version not found' };
      return {
        ok: false,
        decision: 'fail',
        reasons: [found ? 'version.unavailable' : 'version.not_found'],
        ...asked,
        version: null,
        securityAuditUrl: null,
        security: null,
        error,
      };
    }
    const { status = 'clean', reasons = status === 'clean' ? [] : [`security.${status}`] } = found;
    const passed = status === 'clean';
    const publisher = { displayName: skill.slug, publisherHandle: skill.owner, publisherDisplayName: skill.owner };
    const page = `${this.url}/${skill.owner}/skills/${skill.slug}`;
    return {
      ok: reasons.length === 0,
      decision: reasons.length === 0 ? 'pass' : 'fail',
      reasons,
      ...asked,
      ...publisher,
      version: found.version,
      createdAt: PUBLISHED_AT,
      checkedAt: PUBLISHED_AT,
      skillUrl: page,
      securityAuditUrl: `${page}/security-audit?version=${found.version}`,
      overview: passed ? 'No risky behaviour was found.' : `The scanners call it ${status}.`,
      security: {
        status,
        passed,
        signals: { staticScan: { status, reasonCodes: [] }, virusTotal: null, skillSpector: null, dependencyRegistry: null },
      },
    };
  }
}

function newestOf(skill: FakeSkill): FakeVersion | undefined {
  return skill.versions.filter(({ deleted }) => !deleted).at(-1);
}

export function fingerprintOf(files: Record<string, string>): string {
  const lines = Object.entries(files)
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([path, content]) => `${path}:${sha256(content)}`);
  return sha256(lines.join('\n'));
}

export function sha256(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

export function text(response: ServerResponse, status: number, words: string, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8', ...headers }).end(words);
}

export function json(response: ServerResponse, body: unknown, status = 200): void {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body));
}
