import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { CreateAdminKey, CreateUserKey, KeyAnswer, NewKeyAnswer } from './api-keys.schema.js';
import * as store from './api-keys.store.js';
import { digestOf, keyIdOf, mask, newKeyText, sameDigest } from './key-text.js';

/** A caller kept in memory with what proves it. */
interface Kept {
  caller: Caller;
  digest: Buffer;
  /** On the monotonic clock; the database's clock decided how long was left. */
  expiresAtMs: number;
  /** Read anew after this: a process that dies between its commit and its word on the bus leaves copies behind. */
  staleAtMs: number;
}

/** The id of the admin key that has no row. */
const ENVIRONMENT_KEY = 'key_environment';
const KEPT_AT_MOST = 10_000;
const KEPT_FOR_MS = 5_000;

export interface ApiKeysOptions {
  db: Kysely<Schema>;
  bus: Bus;
  pepper: Buffer;
  /** The key from the environment or from DATA_DIR/admin.key: an admin key that needs no row. */
  adminKey: string;
}

type KeyWish = {
  kind: 'user' | 'agent';
  userId: string;
  agentId: string | null;
  name: string;
  primary?: boolean;
  expiresInS?: number | undefined;
};

/**
 * API keys of the three kinds. `authenticate` is on the path of every request: it reads one row by id and keeps it until the bus
 * says that the key, its user or its agent changed; while the bus may miss messages it reads the row each time.
 */
export class ApiKeys {
  readonly #db: Kysely<Schema>;
  readonly #bus: Bus;
  readonly #pepper: Buffer;
  readonly #adminDigest: Buffer;
  readonly #kept = new Map<string, Kept>();

  constructor({ db, bus, pepper, adminKey }: ApiKeysOptions) {
    this.#db = db;
    this.#bus = bus;
    this.#pepper = pepper;
    this.#adminDigest = digestOf(pepper, adminKey);
    bus.subscribe('key', (id) => this.#kept.delete(id));
    bus.subscribe('user', (id) => this.#forget((caller) => caller.kind !== 'admin' && caller.userId === id));
    bus.subscribe('agent', (id) => this.#forget((caller) => caller.kind === 'agent' && caller.agentId === id));
    bus.onTrustLost(() => this.#kept.clear());
  }

  /** Who presents this key; undefined for anything that is not a living key. */
  async authenticate(text: string): Promise<Caller | undefined> {
    const digest = digestOf(this.#pepper, text);
    if (sameDigest(digest, this.#adminDigest)) return { kind: 'admin', keyId: ENVIRONMENT_KEY };
    const keyId = keyIdOf(text);
    if (keyId === undefined) return undefined;
    const kept = this.#fresh(keyId) ?? (await this.#read(keyId));
    if (!kept || !sameDigest(digest, kept.digest)) return undefined;
    if (kept.expiresAtMs > performance.now()) return kept.caller;
    this.#kept.delete(keyId);
    return undefined;
  }

  /** Which of these keys would still be let in. */
  async living(keyIds: string[]): Promise<Set<string>> {
    return new Set([ENVIRONMENT_KEY, ...(await store.livingAcrossTenants(this.#db, keyIds))]);
  }

  async create(userId: string, wish: CreateUserKey, caller: Caller, requestId: string): Promise<NewKeyAnswer> {
    return this.#db.transaction().execute(async (trx) => {
      if (!(await store.holdUser(trx, userId))) throw new AppError('not_found', 'user not found');
      const agentId = await this.#agentOf(trx, userId, wish);
      const key = await this.insert(trx, {
        kind: agentId === null ? 'user' : 'agent',
        userId,
        agentId,
        name: wish.name ?? 'unnamed',
        expiresInS: wish.expires_in_s,
      });
      await appendEvent(trx, userId, {
        type: 'key.created',
        actor: actorOf(caller),
        requestId,
        payload: { key_id: key.id, kind: key.kind },
      });
      return key;
    });
  }

  async createAdmin(wish: CreateAdminKey): Promise<NewKeyAnswer> {
    const id = newId('key');
    const text = newKeyText('admin', id);
    const row = {
      id,
      kind: 'admin' as const,
      user_id: null,
      agent_id: null,
      name: wish.name ?? 'unnamed',
      digest: digestOf(this.#pepper, text),
      hint: text.slice(-4),
      expires_at: null,
      revoked_at: null,
    };
    return { ...answerOf(await store.insertKeyAcrossTenants(this.#db, row, wish.expires_in_s)), api_key: text };
  }

  /** Makes a key inside the caller's transaction; the text is in the answer and nowhere else. */
  async insert(trx: Transaction<Schema>, wish: KeyWish): Promise<NewKeyAnswer> {
    const id = newId('key');
    const text = newKeyText(wish.kind, id);
    const row = {
      id,
      kind: wish.kind,
      user_id: wish.userId,
      agent_id: wish.agentId,
      name: wish.name,
      digest: digestOf(this.#pepper, text),
      hint: text.slice(-4),
      is_primary: wish.primary ?? false,
      expires_at: null,
      revoked_at: null,
    };
    return { ...answerOf(await store.insertKeyAcrossTenants(trx, row, wish.expiresInS)), api_key: text };
  }

  /** Revokes the agent's own key and makes another; the old one is dead when this returns. */
  async rotate(userId: string, agentId: string, caller: Caller, requestId: string): Promise<NewKeyAnswer> {
    const { key, revoked } = await this.#db.transaction().execute(async (trx) => {
      if (!(await store.lockAgent(trx, userId, agentId))) throw new AppError('not_found', 'agent not found');
      const dead = await store.revokePrimaryKey(trx, userId, agentId);
      const made = await this.insert(trx, { kind: 'agent', userId, agentId, name: 'primary', primary: true });
      await appendEvent(trx, userId, {
        type: 'key.rotated',
        actor: actorOf(caller),
        requestId,
        payload: { agent_id: agentId, key_id: made.id },
      });
      return { key: made, revoked: dead };
    });
    for (const id of revoked) this.#bus.publish('key', id);
    return key;
  }

  async list(userId: string, page: PageRequest): Promise<Page<KeyAnswer>> {
    const [rows, total] = await Promise.all([store.listKeys(this.#db, userId, page), store.countKeys(this.#db, userId)]);
    return pageOf(rows, page, total, answerOf);
  }

  async listAdmin(page: PageRequest): Promise<Page<KeyAnswer>> {
    return pageOf(await store.listAdminKeysAcrossTenants(this.#db, page), page, null, answerOf);
  }

  async revoke(userId: string, keyId: string, caller: Caller, requestId: string): Promise<void> {
    await this.#db.transaction().execute(async (trx) => {
      if (!(await store.revokeKey(trx, userId, keyId))) throw new AppError('not_found', 'key not found');
      await appendEvent(trx, userId, { type: 'key.revoked', actor: actorOf(caller), requestId, payload: { key_id: keyId } });
    });
    this.#bus.publish('key', keyId);
  }

  async revokeAdmin(keyId: string): Promise<void> {
    if (!(await store.revokeAdminKeyAcrossTenants(this.#db, keyId))) throw new AppError('not_found', 'key not found');
    this.#bus.publish('key', keyId);
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteKeys(trx, userId);
  }

  async #agentOf(trx: Transaction<Schema>, userId: string, wish: CreateUserKey): Promise<string | null> {
    const kind = wish.kind ?? (wish.agent === undefined ? 'user' : 'agent');
    if (kind === 'user') {
      if (wish.agent === undefined) return null;
      throw new AppError('invalid_request', 'a user key names no agent', {
        fields: [{ path: 'agent', message: 'is allowed for agent keys only' }],
      });
    }
    if (wish.agent === undefined) {
      throw new AppError('invalid_request', 'an agent key needs an agent', {
        fields: [{ path: 'agent', message: 'is required for an agent key' }],
      });
    }
    const agent = await store.lockAgent(trx, userId, wish.agent);
    if (!agent) throw new AppError('not_found', 'agent not found');
    return agent.id;
  }

  #fresh(keyId: string): Kept | undefined {
    const kept = this.#kept.get(keyId);
    return kept !== undefined && kept.staleAtMs > performance.now() ? kept : undefined;
  }

  async #read(keyId: string): Promise<Kept | undefined> {
    const trusted = this.#bus.trusted;
    let changed = false;
    // A change that is published while the row is being read must not be kept out by what was read before it.
    const end = this.#bus.subscribe('*', (_id, topic) => (changed ||= topic === 'key' || topic === 'user' || topic === 'agent'));
    try {
      const row = await store.readForAuthenticationAcrossTenants(this.#db, keyId);
      if (!row) {
        this.#kept.delete(keyId);
        return undefined;
      }
      const now = performance.now();
      const expiresAtMs = row.left_ms === null ? Infinity : now + row.left_ms;
      const kept = { caller: callerFrom(row), digest: row.digest, expiresAtMs, staleAtMs: now + KEPT_FOR_MS };
      if (trusted && this.#bus.trusted && !changed) this.#keep(keyId, kept);
      return kept;
    } finally {
      end();
    }
  }

  #keep(keyId: string, kept: Kept): void {
    if (this.#kept.size >= KEPT_AT_MOST) {
      const oldest = this.#kept.keys().next().value;
      if (oldest !== undefined) this.#kept.delete(oldest);
    }
    this.#kept.set(keyId, kept);
  }

  #forget(matches: (caller: Caller) => boolean): void {
    for (const [id, kept] of this.#kept) if (matches(kept.caller)) this.#kept.delete(id);
  }
}

type AuthenticationRow = NonNullable<Awaited<ReturnType<typeof store.readForAuthenticationAcrossTenants>>>;

function callerFrom(row: AuthenticationRow): Caller {
  if (row.kind === 'admin') return { kind: 'admin', keyId: row.id };
  const { user_id: userId, user_name: userName, tier, agent_id: agentId, agent_name: agentName } = row;
  if (userId === null || userName === null || tier === null) throw new Error(`key ${row.id} has no user`);
  if (row.kind === 'user') return { kind: 'user', keyId: row.id, userId, userName, tier };
  if (agentId === null || agentName === null) throw new Error(`key ${row.id} has no agent`);
  return { kind: 'agent', keyId: row.id, userId, userName, tier, agentId, agentName };
}

function answerOf(row: Awaited<ReturnType<typeof store.insertKeyAcrossTenants>>): KeyAnswer {
  return {
    id: row.id,
    kind: row.kind,
    name: row.name,
    agent_id: row.agent_id,
    masked: mask(row.kind, row.hint),
    status: row.revoked_at ? 'revoked' : row.expired ? 'expired' : 'active',
    expires_at: row.expires_at?.toISOString() ?? null,
    revoked_at: row.revoked_at?.toISOString() ?? null,
    created_at: row.created_at.toISOString(),
  };
}
