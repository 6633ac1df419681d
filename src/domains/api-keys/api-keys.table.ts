import type { Generated } from 'kysely';

export interface ApiKeysTable {
  id: string;
  kind: 'admin' | 'user' | 'agent';
  user_id: string | null;
  agent_id: string | null;
  name: string;
  /** HMAC-SHA-256 of the key under the installation's pepper. */
  digest: Buffer;
  /** The key's last four characters. */
  hint: string;
  /** The agent's own key, which `rotate-key` replaces. */
  is_primary: Generated<boolean>;
  expires_at: Date | null;
  revoked_at: Generated<Date | null>;
  created_at: Generated<Date>;
}
