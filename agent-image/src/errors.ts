/** What an error answer says besides its message. */
export interface ErrorDetails {
  /** `code` of the error object, for programs to tell errors apart by. */
  code?: string;
  /** Fields beside the error object. */
  more?: Record<string, unknown>;
}

/** A request that is answered with an OpenAI error object. `message` is written for the caller to read. */
export class HttpError extends Error {
  readonly status: number;
  readonly type: string;
  readonly headers: Record<string, string>;
  readonly details: ErrorDetails;

  constructor(status: number, type: string, message: string, headers: Record<string, string> = {}, details: ErrorDetails = {}) {
    super(message);
    this.name = 'HttpError';
    this.status = status;
    this.type = type;
    this.headers = headers;
    this.details = details;
  }
}

/** 400 with a message that names the field. */
export function invalid(message: string): HttpError {
  return new HttpError(400, 'invalid_request_error', message);
}

/** The model could not be asked or did not finish. Its message comes from the LLM gateway or is ours; both may be shown. */
export class ModelError extends Error {
  readonly type: string;
  readonly code: string | undefined;
  /** The LLM gateway's status, where it answered with an error before any chunk. */
  readonly status: number | undefined;
  /** Whether it was not the model that failed but the Berth process between: the same call may be made through another. */
  readonly isLost: boolean;

  constructor(
    message: string,
    options: { type?: string; code?: string | undefined; status?: number | undefined; isLost?: boolean } = {},
  ) {
    super(message);
    this.name = 'ModelError';
    this.type = options.type ?? 'api_error';
    this.code = options.code;
    this.status = options.status;
    this.isLost = options.isLost ?? false;
  }
}

/** Why a turn was ended by something else than its own end; the reason of the turn's AbortSignal. */
export class TurnStopped extends Error {
  readonly why: 'disconnected' | 'removed' | 'restored' | 'stopping' | 'moved' | 'cancelled';

  constructor(why: TurnStopped['why']) {
    super(
      {
        disconnected: 'The client went away.',
        removed: 'The agent was removed.',
        restored: 'The agent was put back to an earlier state while the turn ran.',
        stopping: 'The instance is stopping.',
        cancelled: 'The turn was cancelled.',
        moved: 'The turn took longer than the replacement of its instance waits.',
      }[why],
    );
    this.name = 'TurnStopped';
    this.why = why;
  }
}
