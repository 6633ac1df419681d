/** The SQLSTATE or system code of anything thrown by the driver. Never `instanceof`: PGlite's errors are of another class. */
export function codeOf(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** Whether a statement failed because a row with that key exists; `constraint` narrows it to one unique constraint or index. */
export function isUniqueViolation(error: unknown, constraint?: string): boolean {
  if (codeOf(error) !== '23505') return false;
  return constraint === undefined || (error as { constraint?: unknown }).constraint === constraint;
}

/** Whether a row that the statement refers to is not there (any more). */
export function isForeignKeyViolation(error: unknown): boolean {
  return codeOf(error) === '23503';
}

// Postgres: 08 connection exceptions, 57P01-03 the server stops, restarts or starts, 53300 too many connections. The rest is
// the system's.
const UNREACHABLE =
  /^(08...|57P0[123]|53300|ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN|ENOENT)$/;

/**
 * Whether the server could not be reached or hung up: trying again later may help. pg gives some of these no code, only words.
 */
export function isConnectionLoss(error: unknown): boolean {
  const code = codeOf(error);
  if (code !== undefined) return UNREACHABLE.test(code);
  if (error instanceof AggregateError) return error.errors.every(isConnectionLoss);
  return (
    error instanceof Error &&
    /connection terminated|connection timeout|timeout exceeded|not queryable|Connection ended/i.test(error.message)
  );
}
