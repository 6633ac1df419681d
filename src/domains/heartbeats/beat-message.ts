/** What an agent answers when there is nothing to do, as OpenClaw's do. */
const QUIET = 'NO_REPLY';
const EARLIER_CHARS = 1_000;

/** Something that the agent said when it was woken before. */
export interface EarlierBeat {
  at: Date;
  reply: string;
}

/** What an agent is told when it is woken. All that it is to know is here: a beat has no history, so that it stays cheap however many there were. */
export function beatMessage(tasks: string, earlier: readonly EarlierBeat[]): string {
  return [
    'This is your heartbeat: nobody is talking to you, your schedule woke you. Do what HEARTBEAT.md, below, asks for now, with your tools ' +
      `where it needs them. If nothing in it needs doing now, answer exactly ${QUIET} and nothing else. If you did something or somebody ` +
      'should know of something, say so in a few words: a person reads it later.',
    ...(earlier.length === 0 ? [] : [`What you said at earlier heartbeats:\n\n${earlier.map(lineOf).join('\n')}`]),
    `# HEARTBEAT.md\n\n${tasks}`,
  ].join('\n\n');
}

/** Whether an answer says that there was nothing to do. Models add a full stop, or set the word in bold. */
export function isQuiet(reply: string): boolean {
  return new RegExp(`^\\W*${QUIET}\\W*$`).test(reply);
}

function lineOf({ at, reply }: EarlierBeat): string {
  const text = reply.length > EARLIER_CHARS ? `${reply.slice(0, EARLIER_CHARS)} …` : reply;
  return `- ${at.toISOString().slice(0, 16).replace('T', ' ')} UTC: ${text.replace(/\s+/g, ' ')}`;
}
