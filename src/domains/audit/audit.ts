import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import type { AuditTrail } from '../../http/audit.js';
import { AppError } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import type { Vault } from '../../vault/vault.js';
import type { Resealed } from '../vault-rotation/vault-rotation.js';
import { actAnswer } from './act-answer.js';
import { AuditKeys } from './audit-keys.js';
import type { ActAnswer, HeadAnswer, ReceiptAnswer, VerifyAnswer } from './audit.schema.js';
import * as store from './audit.store.js';
import { type Head, receiptText } from './chain.js';
import { digestOf, erasedForm, sha256 } from './entry.js';
import { EntryContext } from './entry-context.js';
import { draftOf, EntryWriter } from './entry-writer.js';
import { Sealer } from './sealer.js';
import { Trail } from './trail.js';
import { Verification } from './verification.js';

export interface AuditOptions {
  db: Kysely<Schema>;
  bus: Bus;
  vault: Vault;
  log: Log;
  installationId: string;
  processId: string;
}

const STRANGERS_KEPT_DAYS = 30;
const FORGOTTEN_AT_ONCE = 1_000;

/** Who did what, and who was refused: entries that are only added, linked into a chain whose head is signed. */
export class Audit {
  readonly #db: Kysely<Schema>;
  readonly #vault: Vault;
  readonly #installationId: string;
  readonly #keys: AuditKeys;
  readonly #writer: EntryWriter;
  readonly #trail: Trail;
  readonly #sealer: Sealer;
  readonly #verification: Verification;

  constructor(options: AuditOptions) {
    this.#db = options.db;
    this.#vault = options.vault;
    this.#installationId = options.installationId;
    const keys = new AuditKeys(options);
    this.#keys = keys;
    const context = new EntryContext({ ...options, keys });
    this.#writer = new EntryWriter({ ...options, keys, context });
    this.#trail = new Trail({ writer: this.#writer, keys });
    this.#sealer = new Sealer({ ...options, keys });
    this.#verification = new Verification({ ...options, keys });
  }

  /** What the edge writes to. */
  get trail(): AuditTrail {
    return this.#trail;
  }

  /** What has to be sealed anew when the master key changes. */
  get resealed(): Resealed {
    return this.#keys;
  }

  /** Makes keys and head on the first start. */
  begin(): Promise<void> {
    return this.#sealer.begin();
  }

  seal(signal: AbortSignal): Promise<void> {
    return this.#sealer.run(signal);
  }

  /** How many entries wait to be linked, and for how long the oldest has. */
  lag(): Promise<{ count: number; oldestS: number }> {
    return store.countUnsealedAcrossTenants(this.#db);
  }

  /** Says of acts whose process died that they were cut off, and writes what was counted. */
  async tidy(): Promise<void> {
    await this.#trail.count();
    const open = await store.readCutOffAcrossTenants(this.#db);
    await Promise.all(
      open.map(({ act, operation, actor, user_id }) =>
        this.#writer.write({ ...draftOf('ended', operation, actor), act, user_id, code: 'cut_off' }),
      ),
    );
  }

  async forgetStrangers(signal: AbortSignal): Promise<void> {
    const forget = () => store.forgetStrangersAcrossTenants(this.#db, STRANGERS_KEPT_DAYS, FORGOTTEN_AT_ONCE);
    while (!signal.aborted && (await forget()) === FORGOTTEN_AT_ONCE);
  }

  /** Writes what waits, before this process ends. */
  async flush(): Promise<void> {
    await this.#trail.count();
    await this.#writer.flush();
  }

  async list(filter: store.Filter, page: PageRequest): Promise<Page<ActAnswer>> {
    return this.#page(await store.listActsAcrossTenants(this.#db, filter, page), page);
  }

  /** What concerns a user: what it did, and what admins did to it. */
  async listOf(userId: string, filter: store.Filter, page: PageRequest): Promise<Page<ActAnswer>> {
    return this.#page(await store.listActs(this.#db, userId, filter, page), page);
  }

  async head(): Promise<HeadAnswer> {
    return this.#headAnswer(await this.#verification.head());
  }

  async verify(after: number, earlier: Pick<Head, 'seq' | 'hash'> | undefined): Promise<VerifyAnswer> {
    const { head, ...said } = await this.#verification.run(after, earlier);
    return { ...said, ok: said.findings.length === 0, head: await this.#headAnswer(head) };
  }

  /** Links in their order, as an export has them. Nothing in them is sealed: what is personal stands there as its digest. */
  links(after: number, limit: number) {
    return store.readLinksAcrossTenants(this.#db, after, limit);
  }

  /** That a user was erased; by its id, which the receipt does not hold. */
  async receipt(userId: string): Promise<ReceiptAnswer> {
    const found = await store.readReceiptAcrossTenants(this.#db, sha256(userId));
    if (!found) throw new AppError('not_found', 'receipt not found');
    return {
      installation: this.#installationId,
      user_digest: found.user_digest,
      entry: found.entry_id,
      at: found.at.toISOString(),
      signature: found.signature.toString('base64'),
      public_key: await this.#publicKey(),
    };
  }

  /** Part of the user's deletion: takes out of its entries all but digests, and leaves a signed receipt. The chain holds as it did. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.holdUser(trx, userId);
    await store.takeOutPerson(trx, userId);
    const signer = await this.#keys.signer(trx);
    const { at } = await store.contextAcrossTenants(trx, []);
    const { person: _, ...draft } = { ...draftOf('erased', 'eraseUser', 'berth'), user_id: erasedForm(userId) };
    const entry = { ...draft, at, personal: null, personal_digest: null };
    const digest = digestOf(entry);
    await store.addAcrossTenants(trx, [{ ...entry, digest, mac: signer.tag('audit entry', digest) }], '');
    const receipt = { userDigest: sha256(userId), entryId: entry.id, at };
    await store.insertReceiptAcrossTenants(trx, {
      user_digest: receipt.userDigest,
      entry_id: entry.id,
      at,
      signature: signer.sign(receiptText(this.#installationId, receipt)),
    });
  }

  async #page(rows: store.ActRow[], page: PageRequest): Promise<Page<ActAnswer>> {
    const users = [...new Set(rows.flatMap(({ user_id }) => user_id ?? []))];
    const { dataKeys } = await store.contextAcrossTenants(this.#db, users);
    const own = rows.some(({ user_id, personal }) => user_id === null && personal) ? await this.#keys.dataKey() : undefined;
    return pageOf(rows, page, null, (row) => actAnswer(row, this.#vault, row.user_id === null ? own : dataKeys.get(row.user_id)));
  }

  async #headAnswer({ seq, hash, at, signature }: Head): Promise<HeadAnswer> {
    return {
      installation: this.#installationId,
      seq,
      hash,
      at: at.toISOString(),
      signature: Buffer.from(signature).toString('base64'),
      public_key: await this.#publicKey(),
    };
  }

  async #publicKey(): Promise<string> {
    return (await this.#keys.signer()).publicKey.toString('base64');
  }
}
