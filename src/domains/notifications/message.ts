import type { NotificationRow } from './notifications.store.js';
import { notificationAnswer } from './notifications.schema.js';

/** A notification as it goes out. */
export interface Message {
  /** The same at every attempt, so that receivers can tell what they have had. */
  id: string;
  subject: string;
  text: string;
  /** The body of a webhook. */
  body: string;
}

export function messageOf(row: NotificationRow): Message {
  const { id, ...answer } = notificationAnswer(row);
  return {
    id,
    subject: oneLine(`[${row.severity}] ${row.title}`),
    text: row.text,
    body: JSON.stringify({
      type: 'notification.created',
      timestamp: answer.created_at,
      data: { id, ...answer },
      user_id: row.user_id,
    }),
  };
}

export function testMessage(id: string, userId: string, channel: { id: string; name: string }): Message {
  return {
    id,
    subject: oneLine(`Test of channel ${channel.name}`),
    text: 'This is a test of a notification channel of Berth. It works.',
    body: JSON.stringify({
      type: 'notification.test',
      timestamp: new Date().toISOString(),
      data: { channel_id: channel.id },
      user_id: userId,
    }),
  };
}

export function codeMail(code: string, goodS: number): { subject: string; text: string } {
  return {
    subject: 'Confirm this address for notifications of Berth',
    text: `The code is ${code}. It is good for ${goodS / 60} minutes.\n\nWhoever did not ask for it can leave it: nothing is sent here without it.`,
  };
}

/** The body of an incoming webhook as Slack takes it, and whatever is compatible. */
export function slackBody({ subject, text }: Message): string {
  const [head, rest] = [escaped(subject), escaped(text)];
  return JSON.stringify({
    text: `*${head}*\n${rest}`,
    blocks: [{ type: 'section', text: { type: 'mrkdwn', text: `*${head}*\n${rest}`.slice(0, 3_000) } }],
  });
}

/** Slack reads links and mentions between these. */
function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

/** A header has one line. */
export function oneLine(text: string): string {
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ').slice(0, 200);
}
