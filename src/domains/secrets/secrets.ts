import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { InstanceAgent } from '../../gateway/instance-config.js';
import { actorOf, type Caller } from '../../lib/caller.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { Log } from '../../lib/log.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Vault } from '../../vault/vault.js';
import type { Agents } from '../agents/agents.js';
import { answersOf, effective, rowsFrom } from './answers.js';
import { Cipher } from './cipher.js';
import { type Change, changesOf, checkRoom } from './changes.js';
import type { Redact } from './redactor.js';
import { Redactors } from './redactors.js';
import type { PublicKeyAnswer, PutSecretsAnswer, SecretAnswer } from './secrets.schema.js';
import * as store from './secrets.store.js';
import { problemOfValue, readWishes, refuse, type Wish } from './wishes.js';

export interface SecretsOptions {
  db: Kysely<Schema>;
  vault: Vault;
  agents: Agents;
  log: Log;
}

/** Who asks, for events, and which version of the secrets it saw. */
export interface Asking {
  caller: Caller;
  requestId: string;
  version?: number | undefined;
}

/** The environment variables that users, and single agents, keep secret. Their values leave this class for an agent's gateway alone. */
export class Secrets {
  readonly #options: SecretsOptions;
  readonly #db: Kysely<Schema>;
  readonly #redactors: Redactors;

  constructor(options: SecretsOptions) {
    this.#options = options;
    this.#db = options.db;
    this.#redactors = new Redactors((userId) => this.#allValues(userId));
  }

  /** The user's secrets, or with an agent those that it gets: its own before the user's. Never a value. */
  async list(userId: string, agent: string | undefined, page: PageRequest): Promise<Page<SecretAnswer> & { version: number }> {
    const { rows, version, answers } = await this.#read(this.#db, userId, agent);
    const shown = rowsFrom(rows, page).slice(0, page.limit + 1);
    return { ...pageOf(answers(shown), page, rows.length, (answer) => answer), version };
  }

  /**
   * Carries out a map of names and values, all or nothing; null deletes. `conflict` for an agent that shares its container, unless `shared` says
   * that this is as wished: what one agent of a container has, all can read (DESIGN, trust boundary).
   */
  async put(
    userId: string,
    agent: string | undefined,
    body: Record<string, unknown>,
    shared: boolean,
    asking: Asking,
  ): Promise<PutSecretsAnswer> {
    const given = await this.#unseal(userId, readWishes(body));
    const { touched, ...answer } = await this.#db.transaction().execute(async (trx) => {
      const scope = await this.#begin(trx, userId, agent, asking.version);
      if (scope.agentId !== null && !shared && [...given.values()].some((value) => value !== undefined))
        await this.#refuseSharing(trx, userId, scope);
      return this.#write(trx, userId, scope, given, shared, asking);
    });
    this.#options.agents.announce(touched);
    return answer;
  }

  /** `not_found` where there is none of that name in that scope. */
  async delete(userId: string, agent: string | undefined, name: string, asking: Asking): Promise<void> {
    const touched = await this.#db.transaction().execute(async (trx) => {
      const scope = await this.#begin(trx, userId, agent, asking.version);
      const rows = await store.readScope(trx, userId, scope.id);
      if (!rows.some((row) => row.name === name)) throw new AppError('not_found', 'secret not found');
      return (await this.#write(trx, userId, scope, new Map([[name, undefined]]), false, asking)).touched;
    });
    this.#options.agents.announce(touched);
  }

  /** The key under which clients may seal values before they send them; made when it is first asked for. */
  async publicKey(userId: string, agent?: string): Promise<PublicKeyAnswer> {
    if (agent !== undefined) await this.#agent(this.#db, userId, agent);
    const keys = await this.#keys(this.#db, userId);
    if (keys.box_id !== null && keys.box_public !== null) return { key_id: keys.box_id, key: keys.box_public.toString('base64') };
    await store.saveBox(this.#db, userId, this.#cipher(userId, keys.data_key).newBox());
    return this.publicKey(userId);
  }

  /**
   * What each of these agents gets: the user's secrets, and its own over them. `unprocessable` where one of them does not open, which is then the
   * reason why the agents' deployment does not get ready.
   */
  async valuesFor(db: Kysely<Schema>, userId: string, agentIds: string[]): Promise<Map<string, Record<string, string>>> {
    const rows = await store.readSecrets(db, userId, agentIds);
    if (rows.length === 0) return new Map();
    const cipher = this.#cipher(userId, (await this.#keys(db, userId)).data_key);
    const opened = new Map<string, string>();
    const valueOf = (row: store.SecretRow): string => {
      const value = opened.get(row.id) ?? cipher.open(row)?.toString('utf8');
      if (value === undefined) throw new AppError('unprocessable', doesNotOpen(row));
      opened.set(row.id, value);
      return value;
    };
    return new Map(agentIds.map((id) => [id, Object.fromEntries(effective(rows, id).map((row) => [row.name, valueOf(row)]))]));
  }

  /** As the assembly asks for them; notes that they were delivered. */
  async describe(
    db: Kysely<Schema>,
    userId: string,
    agents: readonly { id: string; name: string }[],
  ): Promise<Map<string, Partial<InstanceAgent>>> {
    const ids = agents.map(({ id }) => id);
    const values = await this.valuesFor(db, userId, ids);
    if (values.size > 0) this.#noteUse(userId, agents);
    return new Map([...values].map(([id, secrets]) => [id, { secrets }]));
  }

  /** A function that takes the user's secrets, and what they look like in base64 and in URLs, out of a text. Cheap to ask for again. */
  async redactorFor(userId: string): Promise<Redact> {
    return this.#redactors.of(userId, await store.versionOf(this.#db, userId));
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.eraseSecrets(trx, userId);
    this.#redactors.forget(userId);
  }

  async #begin(trx: Transaction<Schema>, userId: string, agent: string | undefined, version: number | undefined): Promise<Scope> {
    await this.#options.agents.lock(trx, userId);
    if (version !== undefined && version !== (await store.versionOf(trx, userId)))
      throw new AppError('precondition_failed', 'the secrets have changed since that version');
    if (agent === undefined) return { id: userId, agentId: null, agentName: null };
    const found = await this.#agent(trx, userId, agent);
    return { id: found.id, agentId: found.id, agentName: found.name };
  }

  async #refuseSharing(trx: Transaction<Schema>, userId: string, { id, agentName }: Scope): Promise<void> {
    if (await store.hasPlaceForSecrets(trx, userId, id)) return;
    throw new AppError(
      'conflict',
      `agent ${agentName} shares its container with other agents, which could read its secrets. Create it with "isolation": "dedicated", ` +
        'or change its isolation to that, or give the secrets to all agents of the user, or confirm with ?shared=true that its siblings may have them',
    );
  }

  async #write(
    trx: Transaction<Schema>,
    userId: string,
    scope: Scope,
    given: Map<string, Buffer | undefined>,
    shared: boolean,
    { caller, requestId }: Asking,
  ): Promise<PutSecretsAnswer & { touched: string[] }> {
    const cipher = this.#cipher(userId, (await this.#keys(trx, userId)).data_key);
    const before = await store.readScope(trx, userId, scope.id);
    const change = changesOf(before, given, (row) => cipher.open(row));
    checkRoom(before, change, await store.sumElsewhere(trx, userId, scope.id));
    const isNews = change.set.length + change.deleted.length > 0;
    if (isNews) await this.#save(trx, userId, scope, change, shared, cipher);
    const { agents } = this.#options;
    const touched = !isNews
      ? []
      : await (scope.agentId ? agents.touch(trx, userId, scope.agentId) : agents.touchAll(trx, userId));
    const { rows, version, answers } = await this.#read(trx, userId, scope.agentId ?? undefined);
    const changed = change.set.map(({ name }) => name);
    if (isNews) {
      const payload = { agent_id: scope.agentId, changed: changed.slice(0, 50), deleted: change.deleted.slice(0, 50) };
      await appendEvent(trx, userId, { type: 'secrets.changed', actor: actorOf(caller), requestId, payload });
    }
    return { data: answers(rows), changed, deleted: change.deleted, version, touched };
  }

  async #save(
    trx: Transaction<Schema>,
    userId: string,
    { id: scope, agentId }: Scope,
    { set, deleted }: Change,
    shared: boolean,
    cipher: Cipher,
  ): Promise<void> {
    const rows = set.map(({ name, version, value }) => ({
      id: newId('sec'),
      agent_id: agentId,
      scope,
      name,
      version,
      value: cipher.seal({ scope, name, version }, value),
      shared_confirmed: shared && agentId !== null,
    }));
    await store.saveSecrets(trx, userId, rows);
    await store.deleteSecrets(trx, userId, scope, deleted);
    await store.raiseVersion(trx, userId);
  }

  /** The wishes as bytes, with sealed ones opened; undefined deletes. */
  async #unseal(userId: string, wishes: Map<string, Wish>): Promise<Map<string, Buffer | undefined>> {
    const sealed = [...wishes].filter(([, wish]) => wish.is === 'sealed');
    if (sealed.length > 0) await this.#checkKeyIds(userId, wishes);
    const keys = sealed.length > 0 ? await this.#keys(this.#db, userId) : undefined;
    const open = (name: string, wish: Wish): Buffer | undefined => {
      if (wish.is === 'gone') return undefined;
      if (wish.is === 'plain') return wish.bytes;
      const bytes =
        keys?.box_public &&
        keys.box_private &&
        this.#cipher(userId, keys.data_key).openBox(keys.box_public, keys.box_private, wish.box);
      const message = bytes ? problemOfOpened(bytes) : 'does not open: it was altered, or sealed under another key';
      if (message !== undefined) refuse([{ path: `${name}.encrypted_value`, message }]);
      return bytes ?? undefined;
    };
    return new Map([...wishes].map(([name, wish]) => [name, open(name, wish)]));
  }

  async #checkKeyIds(userId: string, wishes: Map<string, Wish>): Promise<void> {
    const { box_id: boxId } = await this.#keys(this.#db, userId);
    const fields = [...wishes]
      .filter(([, wish]) => wish.is === 'sealed' && wish.keyId !== boxId)
      .map(([name]) => ({ path: `${name}.key_id`, message: 'is not the id of the public key; ask for it again and seal anew' }));
    if (fields.length > 0)
      throw new AppError('unprocessable', 'values are sealed under another key', { fields: fields.slice(0, 20) });
  }

  async #read(db: Kysely<Schema>, userId: string, agent: string | undefined) {
    const found = agent === undefined ? undefined : await this.#agent(db, userId, agent);
    const keys = await this.#keys(db, userId);
    const all = await store.readSecrets(db, userId, found ? [found.id] : []);
    const cipher = this.#cipher(userId, keys.data_key);
    const about = { open: (row: store.SecretRow) => cipher.open(row), all, agentName: found?.name ?? null };
    return {
      rows: found ? effective(all, found.id) : all,
      version: keys.version ?? 0,
      answers: (rows: store.SecretRow[]) => answersOf(rows, about),
    };
  }

  async #agent(db: Kysely<Schema>, userId: string, agent: string) {
    const found = await store.findAgent(db, userId, agent);
    if (!found) throw new AppError('not_found', 'agent not found');
    return found;
  }

  async #keys(db: Kysely<Schema>, userId: string) {
    const keys = await store.readKeys(db, userId);
    if (!keys) throw new AppError('not_found', 'user not found');
    return keys;
  }

  #cipher(userId: string, dataKey: Buffer): Cipher {
    return new Cipher(this.#options.vault, userId, dataKey);
  }

  /** Every value of the user that opens, by name, for the redactor. */
  async #allValues(userId: string): Promise<{ name: string; value: string }[]> {
    const keys = await store.readKeys(this.#db, userId);
    if (!keys) return [];
    const cipher = this.#cipher(userId, keys.data_key);
    const rows = await store.readSecrets(this.#db, userId);
    return rows.flatMap((row) => {
      const value = cipher.open(row)?.toString('utf8');
      return value === undefined ? [] : [{ name: row.name, value }];
    });
  }

  /** Beside the delivery, which must not wait for it nor fail with it. */
  #noteUse(userId: string, agents: readonly { id: string; name: string }[]): void {
    const note = async (): Promise<void> => {
      const rows = await store.readSecrets(
        this.#db,
        userId,
        agents.map(({ id }) => id),
      );
      const ids = rows.map(({ id }) => id);
      if (ids.length > 0) await store.noteUse(this.#db, userId, ids, agents[0]?.name ?? '');
    };
    note().catch((error: unknown) =>
      this.#options.log.warn({ err: error }, `the use of secrets was not noted: ${messageOf(error)}`),
    );
  }
}

/** Where a change lands: the user's own secrets, or one agent's. */
interface Scope {
  id: string;
  agentId: string | null;
  agentName: string | null;
}

function problemOfOpened(bytes: Buffer): string | undefined {
  if (!bytes.equals(Buffer.from(bytes.toString('utf8'), 'utf8'))) return 'must hold UTF-8 text';
  const problem = problemOfValue(bytes);
  return problem === undefined ? undefined : `holds a value that ${problem}`;
}

function doesNotOpen({ name, agent_id }: store.SecretRow): string {
  const whose = agent_id === null ? '' : ' of an agent';
  return `the secret ${name}${whose} does not open: its row was altered or moved in the database. Set it again, or delete it`;
}
