/** By connection: the users whose events the transaction on it has written so far. */
const byConnection = new WeakMap<object, Set<string>>();

/** Remembers until the transaction on that connection ends that it has written an event of the user. */
export function noteWritten(connection: object, userId: string): void {
  const users = byConnection.get(connection) ?? new Set();
  byConnection.set(connection, users.add(userId));
}

/** The users whose events the transaction on that connection has written; forgets them. */
export function takeWritten(connection: object): Iterable<string> {
  const users = byConnection.get(connection) ?? [];
  byConnection.delete(connection);
  return users;
}
