type Fields = Record<string, string | number | boolean | undefined>;

/**
 * JSON lines on stdout: `time`, `level`, `msg`, then the fields. Callers pass names, numbers and error codes only: what people and
 * models write, and credentials, never reach a log line.
 */
export class Log {
  info(msg: string, fields: Fields = {}): void {
    write('info', msg, fields);
  }

  warn(msg: string, fields: Fields = {}): void {
    write('warn', msg, fields);
  }

  error(msg: string, fields: Fields = {}): void {
    write('error', msg, fields);
  }
}

function write(level: string, msg: string, fields: Fields): void {
  process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), level, msg, ...fields })}\n`);
}

/** What may be logged of a thrown thing: an errno code where there is one, else the class of the error. */
export function errorCode(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  return (error as NodeJS.ErrnoException).code ?? error.name;
}
