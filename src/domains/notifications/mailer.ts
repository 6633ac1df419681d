import { connect, type Socket } from 'node:net';
import { createTransport } from 'nodemailer';
import type { Outcome } from '../../lib/attempt.js';
import { withDeadline } from '../../lib/deadline.js';
import { AppError } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { oneLine } from './message.js';

export interface Mail {
  to: string;
  subject: string;
  text: string;
}

/** What brings mails on their way. */
export interface Mailer {
  /** Never throws for what goes wrong on the way: that is what came of it. */
  send(mail: Mail, signal: AbortSignal): Promise<Outcome>;
}

export interface SmtpOptions {
  /** `smtp://user:password@host:port`, or `smtps://…`. Holds a password: in no log and no answer. */
  url: string;
  from: string;
  log: Log;
  /** How long a mail may take in all, where it is not to be as usual. */
  totalMs?: number | undefined;
}

const TOTAL_MS = 20_000;
const STEP_MS = 10_000;
const AT_ONCE = 4;

/** Sends by the operator's mail server, a few at once. What that says goes into the log; tenants are told no more than its code. */
export class SmtpMailer implements Mailer {
  readonly #options: SmtpOptions;
  readonly #totalMs: number;
  readonly #waiting: (() => void)[] = [];
  #free = AT_ONCE;

  constructor(options: SmtpOptions) {
    this.#options = options;
    this.#totalMs = options.totalMs ?? TOTAL_MS;
  }

  async send(mail: Mail, signal: AbortSignal): Promise<Outcome> {
    try {
      await withDeadline('the mail', this.#totalMs, (cut) => this.#inTurn(cut, () => this.#send(mail, cut)), signal);
      return {};
    } catch (error) {
      signal.throwIfAborted();
      this.#options.log.warn({ err: error }, 'a mail could not be sent');
      return outcomeOf(error);
    }
  }

  async #inTurn(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      signal.throwIfAborted();
      await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free += 1;
    }
  }

  async #send({ to, subject, text }: Mail, signal: AbortSignal): Promise<void> {
    const { url, from } = this.#options;
    let socket: Socket | undefined;
    const onAbort = () => socket?.destroy();
    signal.addEventListener('abort', onAbort, { once: true });
    const transport = createTransport({
      url,
      ...securityOf(new URL(url)),
      connectionTimeout: STEP_MS,
      greetingTimeout: STEP_MS,
      socketTimeout: STEP_MS,
      disableFileAccess: true,
      disableUrlAccess: true,
      // A socket of our own, so that it can be cut.
      getSocket: ({ host, port, secure }, done) => {
        socket = connect({ host: host ?? 'localhost', port: Number(port ?? (secure ? 465 : 587)) });
        socket.setTimeout(STEP_MS, () => socket?.destroy(new AppError('timeout', 'the mail server does not answer')));
        socket.once('error', done).once('connect', () => done(null, { connection: socket }));
      },
    });
    try {
      // An address as an object is taken as it is: nothing in it can be a second one, or a header.
      await transport.sendMail({ from, to: { name: '', address: to }, subject: oneLine(subject), text });
    } finally {
      signal.removeEventListener('abort', onAbort);
      socket?.destroy();
    }
  }
}

/** A password goes over an encrypted connection, or to this machine. */
function securityOf({ protocol, hostname, password }: URL): { requireTLS?: boolean } {
  const isHere = hostname === 'localhost' || hostname === '[::1]' || hostname.startsWith('127.');
  return protocol === 'smtp:' && password !== '' && !isHere ? { requireTLS: true } : {};
}

/** What the server says to an address is about that; all else is the operator's affair. */
function outcomeOf(error: unknown): Outcome {
  if (error instanceof AppError && error.code === 'timeout') return { error: 'the mail server took too long', isOfBerth: true };
  const { responseCode, command } = error as { responseCode?: unknown; command?: unknown };
  if (typeof responseCode !== 'number') return { error: 'the mail server cannot be reached', isOfBerth: true };
  const isOfAddress = command === 'RCPT TO';
  return {
    error: `the mail server answered ${responseCode}`,
    isFinal: isOfAddress && responseCode >= 500,
    isOfBerth: !isOfAddress,
  };
}
