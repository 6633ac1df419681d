import type { Kysely, Selectable, Transaction } from 'kysely';
import { isUniqueViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { ApiKeys } from '../api-keys/api-keys.js';
import type { Agents } from '../agents/agents.js';
import type { AgentAnswer } from '../agents/agents.schema.js';
import type { Deployments } from '../deployments/deployments.js';
import type { Tiers } from '../tiers/tiers.js';
import type { CreateUser, UserAnswer } from './users.schema.js';
import * as store from './users.store.js';
import type { UsersTable } from './users.table.js';

/** A domain that holds rows of users and gives them up when a user goes. */
export interface Eraser {
  erase(trx: Transaction<Schema>, userId: string): Promise<void>;
}

export interface UsersOptions {
  db: Kysely<Schema>;
  bus: Bus;
  vault: Vault;
  tiers: Tiers;
  keys: ApiKeys;
  agents: Agents;
  deployments: Deployments;
  /** Whose rows outlive the user's agents and go last, in this order. */
  erasers: Eraser[];
}

const AGENTS_SHOWN = 200;

/** The tenants. */
export class Users {
  readonly #options: UsersOptions;
  readonly #db: Kysely<Schema>;

  constructor(options: UsersOptions) {
    this.#options = options;
    this.#db = options.db;
  }

  /** The user and its first API key, which is shown this once. `conflict` when the name is taken. */
  async create(wish: CreateUser, caller: Caller, requestId: string): Promise<UserAnswer & { api_key: string }> {
    const tier = await this.#options.tiers.get(wish.tier ?? 'free');
    const id = newId('usr');
    try {
      return await this.#db.transaction().execute(async (trx) => {
        const data_key = this.#options.vault.newDataKey(id);
        const user = await store.insertUserAcrossTenants(trx, {
          id,
          name: wish.name,
          email:
            wish.email === undefined ? null : this.#options.vault.seal(data_key, emailOf(id), Buffer.from(wish.email, 'utf8')),
          tier: tier.name,
          data_key,
        });
        const key = await this.#options.keys.insert(trx, { kind: 'user', userId: id, agentId: null, name: 'first' });
        await appendEvent(trx, id, { type: 'user.created', actor: actorOf(caller), requestId, payload: { tier: tier.name } });
        return { ...this.#answer(user), api_key: key.api_key };
      });
    } catch (error) {
      if (!isUniqueViolation(error, 'users_name_key')) throw error;
      throw new AppError('conflict', `a user named ${wish.name} exists already`, {
        cause: error,
        fields: [{ path: 'name', message: 'is taken' }],
      });
    }
  }

  async list(page: PageRequest): Promise<Page<UserAnswer>> {
    return pageOf(await store.listUsersAcrossTenants(this.#db, page), page, null, (user) => this.#answer(user));
  }

  async get(userId: string): Promise<UserAnswer & { agents: AgentAnswer[] }> {
    const user = await this.#read(userId);
    const agents = await this.#options.agents.list(userId, { after: undefined, offset: 0, limit: AGENTS_SHOWN });
    return { ...this.#answer(user), agents: agents.data };
  }

  async nameOf(userId: string): Promise<string> {
    return (await this.#read(userId)).name;
  }

  /** Finds whom an admin names in a path. */
  async resolve(idOrName: string): Promise<{ id: string } | undefined> {
    return store.findUserAcrossTenants(this.#db, idOrName);
  }

  /** The new limits hold for the next request; containers are replaced where their limits differ. */
  async changeTier(
    userId: string,
    tierName: string,
    version: number | undefined,
    caller: Caller,
    requestId: string,
  ): Promise<UserAnswer> {
    const tier = await this.#options.tiers.get(tierName);
    const { user, deployments } = await this.#db.transaction().execute(async (trx) => {
      const changed = await store.setTier(trx, userId, tier.name, version);
      if (!changed) throw await this.#whyNotChanged(trx, userId);
      const touched = await this.#options.deployments.limitsChanged(trx, userId);
      await this.#options.deployments.history.record(trx, userId, touched, { actor: actorOf(caller), requestId });
      await appendEvent(trx, userId, {
        type: 'user.tier_changed',
        actor: actorOf(caller),
        requestId,
        payload: { tier: tier.name },
      });
      return { user: changed, deployments: touched };
    });
    this.#options.bus.publish('user', userId);
    for (const id of deployments) this.#options.deployments.announce(id);
    return this.#answer(user);
  }

  /**
   * Keys and agents are dead when this returns. Containers and volumes are removed by the reconciler; once none is left, `eraseGone`
   * removes every row.
   */
  async delete(userId: string, caller: Caller, requestId: string): Promise<UserAnswer> {
    const { keys, agents, deployments } = this.#options;
    const { user, retired } = await this.#db.transaction().execute(async (trx) => {
      const marked = await store.markDeleting(trx, userId);
      if (!marked) throw new AppError('not_found', 'user not found');
      await keys.erase(trx, userId);
      await agents.erase(trx, userId);
      const ids = await deployments.retireAll(trx, userId);
      await appendEvent(trx, userId, { type: 'user.deleting', actor: actorOf(caller), requestId, payload: {} });
      return { user: marked, retired: ids };
    });
    this.#options.bus.publish('user', userId);
    for (const id of retired) deployments.announce(id);
    return this.#answer(user);
  }

  /** Removes the rows of users of whom nothing else is left. One that cannot go, as while a last call of it ends, keeps no other from going. */
  async eraseGone(): Promise<void> {
    const failures: unknown[] = [];
    for (const { id, data_key: dataKey } of await store.readErasableAcrossTenants(this.#db)) {
      await this.#eraseOne(id, dataKey).catch((error: unknown) => failures.push(error));
    }
    if (failures.length > 0)
      throw new AggregateError(failures, `${failures.length} users could not be erased: ${messageOf(failures[0])}`);
  }

  async #eraseOne(userId: string, dataKey: Buffer): Promise<void> {
    await this.#db.transaction().execute(async (trx) => {
      for (const eraser of this.#options.erasers) await eraser.erase(trx, userId);
      await store.eraseUser(trx, userId);
    });
    this.#options.vault.forget(dataKey);
    this.#options.bus.publish('user', userId);
  }

  #answer(user: Selectable<UsersTable>): UserAnswer {
    return answerOf(user, this.#options.vault);
  }

  async #read(userId: string): Promise<Selectable<UsersTable>> {
    const user = await store.readUser(this.#db, userId);
    if (!user) throw new AppError('not_found', 'user not found');
    return user;
  }

  async #whyNotChanged(trx: Transaction<Schema>, userId: string): Promise<AppError> {
    const user = await store.readUser(trx, userId);
    if (!user || user.deleting_at) return new AppError('not_found', 'user not found');
    return new AppError('precondition_failed', 'the user has changed since that version');
  }
}

/** Where an e-mail address is sealed for. */
function emailOf(userId: string) {
  return { scope: userId, name: 'users.email', version: 1 };
}

function answerOf(user: Selectable<UsersTable>, vault: Vault): UserAnswer {
  return {
    id: user.id,
    name: user.name,
    email: user.email && openEmail(user.id, user.data_key, user.email, vault),
    tier: user.tier,
    status: user.deleting_at ? 'deleting' : 'active',
    version: user.version,
    created_at: user.created_at.toISOString(),
    updated_at: user.updated_at.toISOString(),
  };
}

/** Null where it does not open: what was altered in the database must not keep the user from being listed. */
function openEmail(userId: string, dataKey: Buffer, email: Buffer, vault: Vault): string | null {
  try {
    return vault.open(dataKey, emailOf(userId), email).toString('utf8');
  } catch (error) {
    if (error instanceof VaultError) return null;
    throw error;
  }
}
