import type { AddressInfo, Socket } from 'node:net';
import { SMTPServer } from 'smtp-server';
import { until } from './until.js';

export interface ReceivedMail {
  from: string;
  to: string[];
  /** As it came, head and body. */
  raw: string;
  subject: string;
  text: string;
}

/** How a mail server behaves. `silent` says nothing at all; `drops` hangs up in the midst; `refuses` and `fills up` answer 550 and 452. */
export type Manner = 'well' | 'silent' | 'drops' | 'refuses' | 'fills up';

/** A mail server as an operator might run one. */
export class MailServer {
  readonly received: ReceivedMail[] = [];
  manner: Manner = 'well';
  /** Connections so far. */
  connections = 0;
  readonly #server: SMTPServer;
  readonly #sockets = new Set<Socket>();

  private constructor() {
    this.#server = new SMTPServer({
      disabledCommands: ['STARTTLS'],
      authOptional: true,
      allowInsecureAuth: true,
      logger: false,
      onAuth: ({ username, password }, _, done) =>
        username === 'berth' && password === 'hunter2' ? done(null, { user: username }) : done(new Error('no')),
      onConnect: (_, done) => {
        this.connections += 1;
        if (this.manner !== 'silent') done();
      },
      onRcptTo: (_, __, done) => {
        if (this.manner === 'refuses') return done(answering(550, 'no such user, says mail-7.internal'));
        if (this.manner === 'fills up') return done(answering(452, 'the disk of mail-7.internal is full'));
        done();
      },
      onData: (stream, { envelope }, done) => {
        let raw = '';
        stream.on('data', (chunk: Buffer) => {
          raw += chunk.toString('utf8');
        });
        stream.on('end', () => {
          if (this.manner === 'drops') return this.#cut();
          const from = envelope.mailFrom ? envelope.mailFrom.address : '';
          this.received.push({ from, to: envelope.rcptTo.map(({ address }) => address), raw, ...partsOf(raw) });
          done();
        });
      },
    });
    this.#server.on('error', () => undefined);
    this.#server.server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket.on('close', () => this.#sockets.delete(socket)));
    });
  }

  static async start(): Promise<MailServer> {
    const made = new MailServer();
    await new Promise<void>((resolve) => void made.#server.listen(0, '127.0.0.1', resolve));
    return made;
  }

  get url(): string {
    return `smtp://berth:hunter2@127.0.0.1:${(this.#server.server.address() as AddressInfo).port}`;
  }

  /** Waits for so many mails to that address. */
  async got(to: string, count: number): Promise<ReceivedMail[]> {
    const mails = () => this.received.filter((mail) => mail.to.includes(to));
    await until(
      () => mails().length >= count,
      () => `${count} mails to ${to}: ${this.received.map(({ raw }) => raw).join('\n')}`,
    );
    return mails();
  }

  async stop(): Promise<void> {
    this.#cut();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}

function answering(responseCode: number, message: string): Error {
  return Object.assign(new Error(message), { responseCode });
}

function partsOf(raw: string): { subject: string; text: string } {
  const [head = '', ...body] = raw.split('\r\n\r\n');
  const unfolded = head.replaceAll(/\r\n[ \t]+/g, ' ');
  return { subject: /^Subject: (.*)$/m.exec(unfolded)?.[1]?.trim() ?? '', text: body.join('\r\n\r\n') };
}
