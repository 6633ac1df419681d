import type { Generated } from 'kysely';

/** Opens one WebSocket, once, within its time. The ticket itself is with the client; here is its digest. */
export interface SocketTicketsTable {
  digest: string;
  user_id: string;
  /** The key that it was asked for with: what it opens ends with that key. */
  key_id: string;
  expires_at: Date;
}

/** The newest transaction of which events were forgotten with age; one row, once there are any. */
export interface EventHorizonTable {
  only_one: Generated<boolean>;
  xid: string;
}
