import type { ClawHub, FoundSkill, Resolved, Verdict } from '../../clawhub/clawhub.js';
import { AppError, messageOf, wrongField } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { archiveKind, readArchive } from './archive.js';
import { readSkill } from './frontmatter.js';
import { SkillName } from './frontmatter.schema.js';
import type { SkillFile } from './intake.js';
import { isLeftAside } from './entry-path.js';
import { packageOf, sha256 } from './package.js';
import { provenanceOf, type Provenance } from './provenance.js';
import type { SkillAnswer } from './skills.schema.js';
import type { Change, NewVersion, Skills } from './skills.js';
import type { SkillRow } from './skills.store.js';

/** What the operator lets through besides skills that the registry has found clean. */
export type RiskyStatus = 'suspicious' | 'pending' | 'error';

export interface InstallsOptions {
  skills: Skills;
  registry: ClawHub;
  allow: readonly RiskyStatus[];
  log: Log;
}

export interface InstallWish {
  version?: string | undefined;
  tag?: string | undefined;
  /** The publisher, where the slug does not say it. */
  owner?: string | undefined;
  /** Takes the place of a skill of that name that came from elsewhere, or is pinned. */
  force?: boolean | undefined;
  enabledFor?: 'all' | 'none' | undefined;
}

export type InstallOutcome = 'created' | 'updated' | 'unchanged';

/** Skills from the registry: found, judged, fetched, checked, and only then kept. Whatever fails before leaves nothing behind. */
export class SkillInstalls {
  readonly #options: InstallsOptions;

  constructor(options: InstallsOptions) {
    this.#options = options;
  }

  search(query: string, limit: number, signal: AbortSignal): Promise<FoundSkill[]> {
    return this.#options.registry.search(query, limit, signal);
  }

  /** `slug`: as the registry knows it, or `@owner/slug`. */
  async install(
    userId: string,
    slug: string,
    wish: InstallWish,
    change: Change,
    signal: AbortSignal,
  ): Promise<{ skill: SkillAnswer; outcome: InstallOutcome }> {
    const { registry, skills } = this.#options;
    if (wish.version !== undefined && wish.tag !== undefined) throw wrongField('tag', 'cannot stand beside a version');
    const resolved = await registry.resolve(registry.readRef(slug, wish.owner), wish, signal);
    checkName(resolved.slug);
    const found = await skills.find(userId, resolved.slug);
    if (found && wish.force !== true) refuseToReplace(found, resolved);
    // Before the verdict, since it says more clearly that there is no such version.
    const checksums = await registry.checksums(resolved, signal);
    const verdict = await this.#judge(resolved, signal);
    const archive = await registry.download(resolved, signal);
    return skills.workbench.use(async () => {
      const [files, provenance] = await this.#open(archive, resolved, checksums);
      if (found && isSame(found, resolved, provenance))
        return { skill: await skills.get(userId, found.id), outcome: 'unchanged' };
      return skills.keep(userId, await this.#versionOf(resolved, verdict, files, provenance, wish), change);
    });
  }

  /** To the registry's newest version. */
  async update(
    userId: string,
    skill: string,
    wish: Pick<InstallWish, 'force'>,
    change: Change,
    signal: AbortSignal,
  ): Promise<{ skill: SkillAnswer; outcome: InstallOutcome }> {
    const row = await this.#options.skills.find(userId, skill);
    if (!row) throw new AppError('not_found', 'skill not found');
    const { source } = row;
    if (source === null) throw new AppError('conflict', 'the skill was uploaded, not installed from the registry');
    if (row.pinned && wish.force !== true) throw new AppError('conflict', 'the skill is pinned: unpin it, or say force');
    const ref = { slug: source.slug, owner: source.owner ?? undefined };
    const latest = await this.#options.registry.latest(ref, source.fingerprint, signal);
    if (latest === source.version) return { skill: await this.#options.skills.get(userId, row.id), outcome: 'unchanged' };
    return this.install(userId, ref.slug, { version: latest, owner: ref.owner, force: wish.force }, change, signal);
  }

  async uninstall(userId: string, slug: string, change: Change): Promise<void> {
    const ref = this.#options.registry.readRef(slug);
    const row = await this.#options.skills.find(userId, ref.slug);
    if (!row || (ref.owner !== undefined && row.source?.owner !== ref.owner)) throw new AppError('not_found', 'skill not found');
    if (row.origin !== 'registry') throw new AppError('conflict', 'the skill was uploaded, not installed from the registry');
    await this.#options.skills.delete(userId, row.id, change);
  }

  async #judge(resolved: Resolved, signal: AbortSignal): Promise<Verdict> {
    const verdict = await this.#options.registry.verdict(resolved, signal);
    if (verdict.passed) return verdict;
    const isAllowed = this.#options.allow.some((status) => status === verdict.status);
    if (isAllowed) return verdict;
    const { slug, owner, version } = resolved;
    this.#options.log.info({ slug, owner, version, status: verdict.status, reasons: verdict.reasons }, 'a skill was refused');
    const fields = verdict.reasons.map((reason) => ({ path: 'security', message: reason }));
    throw new AppError('forbidden', refusalWords(verdict), fields.length > 0 ? { fields } : {});
  }

  async #open(archive: Buffer, resolved: Resolved, checksums: ReadonlyMap<string, string>): Promise<[SkillFile[], Provenance]> {
    const { registry } = this.#options;
    if (archiveKind(archive) !== 'zip')
      throw new AppError('upstream_error', 'the registry gives something else than a zip archive');
    const files = await readArchive(archive, 'zip').catch((error: unknown) => {
      throw refusedArchive(error);
    });
    checkMeta(files, resolved);
    const provenance = provenanceOf(registry.url, resolved, archive, files, Date.now());
    checkSums(files, checksums);
    return [files, provenance];
  }

  async #versionOf(
    resolved: Resolved,
    verdict: Verdict,
    files: SkillFile[],
    provenance: Provenance,
    wish: InstallWish,
  ): Promise<NewVersion> {
    const { slug, owner = null, version } = resolved;
    const { fingerprint, archiveSha256, origin, lock } = provenance;
    const { decision, status, reasons, overview, auditUrl } = verdict;
    const main = files.find(({ path }) => path === 'SKILL.md')!;
    return {
      name: slug,
      read: readSkill(main.bytes, slug, true),
      package: await packageOf([...files, origin]),
      source: {
        registry: this.#options.registry.url,
        slug,
        owner,
        version,
        fingerprint,
        archive_sha256: archiveSha256,
        verdict: { decision, status, reasons, overview, audit_url: auditUrl },
        lock,
      },
      enabledFor: wish.enabledFor,
    };
  }
}

function checkName(slug: string): void {
  if (SkillName.safeParse(slug).success) return;
  throw new AppError('unprocessable', "the skill's slug cannot be the name of a skill: 1 to 64 of a-z, 0-9 and single hyphens");
}

function refuseToReplace(found: SkillRow, { owner }: Resolved): void {
  if (found.source === null) throw new AppError('conflict', 'a skill of that name was uploaded: delete it, or say force');
  if (found.source.owner !== (owner ?? null))
    throw new AppError('conflict', 'a skill of that name is there from another publisher: delete it, or say force');
  if (found.pinned) throw new AppError('conflict', 'the skill is pinned: unpin it, or say force');
}

/** Whether what was fetched is what is there: then its time of installation stays too. */
function isSame(found: SkillRow, { owner, version }: Resolved, { fingerprint }: Provenance): boolean {
  const { source } = found;
  return source !== null && source.version === version && source.owner === (owner ?? null) && source.fingerprint === fingerprint;
}

function refusalWords({ status, overview }: Verdict): string {
  const why = overview === null ? '' : `: ${overview.slice(0, 500)}`;
  return `the registry's security verdict is ${status ?? 'missing'}, so the skill is not installed${why}`;
}

/** The archive is the registry's: what is wrong with it is not the caller's mistake. */
function refusedArchive(error: unknown): unknown {
  if (!(error instanceof AppError)) return error;
  const [field] = error.fields ?? [];
  const what = field ? `${field.path} ${field.message}` : error.message;
  return new AppError('unprocessable', `the registry's archive is refused: ${what}`, { cause: error });
}

/** The registry writes into each archive what it is. */
function checkMeta(files: readonly SkillFile[], { slug, version }: Resolved): void {
  const meta = files.find(({ path }) => path === '_meta.json');
  if (!meta) throw new AppError('upstream_error', "the registry's archive does not say what it is: it has no _meta.json");
  let said: { slug?: unknown; version?: unknown } | null;
  try {
    said = JSON.parse(meta.bytes.toString('utf8')) as typeof said;
  } catch (error) {
    throw new AppError('upstream_error', `the registry's archive has a _meta.json that is no JSON: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (String(said?.slug).toLowerCase() === slug && said?.version === version) return;
  throw new AppError('upstream_error', "the registry's archive is of another skill or version");
}

/** Every file must be the one that the registry has listed, and none may be missing. */
function checkSums(files: readonly SkillFile[], checksums: ReadonlyMap<string, string>): void {
  const have = new Map(files.map(({ path, bytes }) => [path, sha256(bytes)]));
  for (const [path, digest] of have) {
    if (path !== '_meta.json' && checksums.get(path) !== digest)
      throw new AppError(
        'upstream_error',
        "a file of the registry's archive has another checksum than the registry lists, or is not listed",
      );
  }
  for (const path of checksums.keys()) {
    if (path !== '_meta.json' && !isLeftAside(path) && !have.has(path))
      throw new AppError('upstream_error', 'a file that the registry lists is not in its archive');
  }
}
