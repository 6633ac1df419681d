import type { Socket } from 'node:net';
import pg from 'pg';

const CHANNEL = 'berth';
// One statement and one commit for a whole batch: every commit that notifies queues behind the others of the server.
const NOTIFY_ALL = 'select pg_notify($1, text) from unnest($2::text[]) as text';

/** A connection of its own that listens on Berth's channel. Texts of this process come back on it as well. */
export interface Line {
  send(texts: string[]): Promise<void>;
  /** Says goodbye and waits for the end. */
  close(): Promise<void>;
  /** Ends it without a word: for a peer that does not answer. */
  cut(): void;
}

export interface LineEvents {
  onText(text: string): void;
  /** Called once, when the line is lost for whatever reason. */
  onEnd(error: Error | undefined): void;
}

/** Connects and listens; from the moment this resolves every text is heard until `onEnd`. */
export async function openLine(config: pg.ClientConfig, events: LineEvents): Promise<Line> {
  const client = new pg.Client(config);
  let ended = false;
  const end = (error?: Error): void => {
    if (ended) return;
    ended = true;
    events.onEnd(error);
  };
  client.on('error', end).on('end', () => end());
  client.on('notification', (message) => events.onText(message.payload ?? ''));
  try {
    await client.connect();
    await client.query(`listen ${CHANNEL}`);
  } catch (error) {
    ended = true;
    cut(client);
    throw error;
  }
  return { send: (texts) => notify(client, texts), close: () => client.end(), cut: () => cut(client) };
}

/** Sends texts to every line that is open on this database. */
export async function notify(through: Pick<pg.Client, 'query'> | pg.Pool, texts: string[]): Promise<void> {
  await through.query(NOTIFY_ALL, [CHANNEL, texts]);
}

function cut(client: pg.Client): void {
  // `end()` would wait for a peer that may never answer; pg has no public way to hang up.
  (client.connection as unknown as { stream: Socket }).stream.destroy();
}
