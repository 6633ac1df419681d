import { hidden, spellings } from './redaction.js';

type Fields = Record<string, string | number | boolean | undefined>;

/**
 * JSON lines on stdout: `time`, `level`, `msg`, then the fields. Callers pass names, numbers and error codes only: what people and
 * models write, and credentials, never reach a log line. Should a secret of an agent do so all the same, it is taken out.
 */
export class Log {
  #secrets: readonly string[] = [];

  /** Takes these values out of all lines from now on, in every form they may have. */
  hide(secrets: Iterable<string>): void {
    this.#secrets = spellings(secrets);
  }

  info(msg: string, fields: Fields = {}): void {
    this.#write('info', msg, fields);
  }

  warn(msg: string, fields: Fields = {}): void {
    this.#write('warn', msg, fields);
  }

  error(msg: string, fields: Fields = {}): void {
    this.#write('error', msg, fields);
  }

  #write(level: string, msg: string, fields: Fields): void {
    const kept = this.#secrets.length === 0 ? fields : this.#withoutSecrets(fields);
    process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), level, msg, ...kept })}\n`);
  }

  #withoutSecrets(fields: Fields): Fields {
    return Object.fromEntries(
      Object.entries(fields).map(([name, value]) => [name, typeof value === 'string' ? hidden(value, this.#secrets) : value]),
    );
  }
}

/** What may be logged of a thrown thing: an errno code where there is one, else the class of the error. */
export function errorCode(error: unknown): string {
  if (!(error instanceof Error)) return typeof error;
  return (error as NodeJS.ErrnoException).code ?? error.name;
}
