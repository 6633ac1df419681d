/** Who makes a call, as the credential proved it. `http/authenticate` makes it; domains only read it. */
export type Caller =
  | { kind: 'admin'; keyId: string }
  | { kind: 'user'; keyId: string; userId: string; userName: string; tier: string }
  | { kind: 'agent'; keyId: string; userId: string; userName: string; tier: string; agentId: string; agentName: string };

/** Who changes something, by which request. */
export interface Change {
  caller: Caller;
  requestId: string;
}

/** The caller as the `actor` of events and audit rows: kind and key, never a name. */
export function actorOf(caller: Caller): string {
  return `${caller.kind}:${caller.keyId}`;
}
