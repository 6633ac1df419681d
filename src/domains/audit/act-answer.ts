import type { Vault } from '../../vault/vault.js';
import { VaultError } from '../../vault/vault-error.js';
import type { ActAnswer } from './audit.schema.js';
import type { ActRow } from './audit.store.js';
import { type Personal, placeOf } from './entry-writer.js';

/** An act as its beginning and its end say it. */
export function actAnswer(row: ActRow, vault: Vault, dataKey: Buffer | undefined): ActAnswer {
  const { name, address, path } = openPersonal(row, vault, dataKey);
  return {
    id: row.id,
    at: row.at.toISOString(),
    actor: row.actor,
    person: name ?? null,
    address: address ?? null,
    operation: row.operation,
    path: path ?? null,
    user_id: row.user_id ?? row.end_user,
    resource: row.end_resource ?? row.resource,
    request_id: row.request_id,
    outcome: outcomeOf(row),
    status: row.end_status ?? row.status,
    code: row.end_code ?? row.code,
    count: row.count,
    request_digest: row.request_digest,
    before_digest: row.before_digest,
    after_digest: row.end_digest,
    ended_at: row.ended_at?.toISOString() ?? null,
    seq: row.seq === null ? null : Number(row.seq),
  };
}

function outcomeOf({ kind, ended_at, end_status, end_code }: ActRow): ActAnswer['outcome'] {
  if (kind === 'refused' || kind === 'erased') return kind;
  if (ended_at === null) return 'open';
  if (end_code === 'cut_off') return 'cut_off';
  return (end_status ?? 500) < 400 && end_code === null ? 'done' : 'failed';
}

/** Empty where it does not open: what was altered must not keep the rest from being read. */
function openPersonal({ id, personal }: ActRow, vault: Vault, dataKey: Buffer | undefined): Personal {
  if (!personal || !dataKey) return {};
  try {
    return JSON.parse(vault.open(dataKey, placeOf(id), personal).toString('utf8')) as Personal;
  } catch (error) {
    if (error instanceof VaultError) return {};
    throw error;
  }
}
