/** Who makes a call, as the credential proved it. `http/authenticate` makes it; domains only read it. */
export type Caller =
  | { kind: 'admin'; keyId: string }
  | { kind: 'user'; keyId: string; userId: string }
  | { kind: 'agent'; keyId: string; userId: string; agentId: string };
