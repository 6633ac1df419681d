import { type DatabaseConnection, type Driver, PostgresDialect, type PostgresDialectConfig, PostgresDriver } from 'kysely';
import { takeWritten } from '../events/written.js';

/**
 * Postgres, and after each commit it is told whose events the transaction wrote, or the one statement that was one. Here and not at each place that appends an event, since
 * none of them can forget it then; and after the commit and not by NOTIFY within the transaction, since the commits of all transactions that
 * notify wait for one another.
 */
export class TellingDialect extends PostgresDialect {
  readonly #config: PostgresDialectConfig;
  readonly #tell: (userId: string) => void;

  constructor(config: PostgresDialectConfig, tell: (userId: string) => void) {
    super(config);
    this.#config = config;
    this.#tell = tell;
  }

  override createDriver(): Driver {
    return new TellingDriver(this.#config, this.#tell);
  }
}

class TellingDriver extends PostgresDriver {
  readonly #tell: (userId: string) => void;

  constructor(config: PostgresDialectConfig, tell: (userId: string) => void) {
    super(config);
    this.#tell = tell;
  }

  override async commitTransaction(connection: DatabaseConnection): Promise<void> {
    const users = takeWritten(connection);
    await super.commitTransaction(connection);
    for (const userId of users) this.#tell(userId);
  }

  override async releaseConnection(connection: Parameters<PostgresDriver['releaseConnection']>[0]): Promise<void> {
    // Of a transaction that was ended nothing is left by now.
    const users = takeWritten(connection);
    await super.releaseConnection(connection);
    for (const userId of users) this.#tell(userId);
  }

  override async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    takeWritten(connection);
    await super.rollbackTransaction(connection);
  }
}
