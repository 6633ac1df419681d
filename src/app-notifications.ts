import type { AppOptions } from './app-options.js';
import { type CarrierOptions, NotificationCarrier } from './domains/notifications/carrier.js';
import { Channels } from './domains/notifications/channels.js';
import { Checks, type ChecksOptions } from './domains/notifications/checks.js';
import { Confirmation } from './domains/notifications/confirmation.js';
import { SmtpMailer, type SmtpOptions } from './domains/notifications/mailer.js';
import { Matching } from './domains/notifications/matching.js';
import { checkRulesJob, pruneNotificationsJob } from './domains/notifications/notifications.jobs.js';
import { Notifications } from './domains/notifications/notifications.js';
import { Rules } from './domains/notifications/rules.js';
import { Sender } from './domains/notifications/sender.js';
import * as signing from './domains/webhooks/signing.js';
import { Dispatch, type DispatchOptions } from './lib/dispatch.js';
import type { Outbound } from './link/outbound.js';

/** What may be other than usual about notifications: when they are sent, how often rules are checked, and how long a mail may take. */
export interface NotificationTimes {
  notifications?: Pick<DispatchOptions, 'everyMs'> &
    Pick<CarrierOptions, 'retriesS' | 'disableAfterS' | 'clock' | 'quietLookAtMostS'> &
    Pick<ChecksOptions, 'againS'> & { checkEveryMs?: number; mailMs?: SmtpOptions['totalMs'] };
}

/** What tells a user of what is worth a word: rules, the inbox, and the channels that go out of it. */
export function createNotifications(options: AppOptions, poster: Outbound) {
  const { config, secrets, vault, log, processId } = options;
  const { db, bus } = options.database;
  const { againS, checkEveryMs, everyMs, mailMs, ...times } = options.notifications ?? {};
  const { smtpUrl: url } = secrets;
  const { smtpFrom: from } = config;
  const mailer = url === undefined || from === undefined ? undefined : new SmtpMailer({ url, from, log, totalMs: mailMs });
  const notifications = new Notifications({ db, retentionDays: config.notificationsRetentionDays });
  const sender = new Sender({ vault, poster, signing, mailer });
  const confirmation = new Confirmation({ db, vault, mailer });
  const channels = new Channels({ db, vault, poster, signing, sender, confirmation });
  const carrier = new NotificationCarrier({ db, matching: new Matching({ db, log }), sender, ...times });
  const dispatch = new Dispatch(carrier, { bus, log, processId, everyMs });
  return {
    routes: { notifications, rules: new Rules({ db }), channels },
    erasers: [notifications],
    jobs: [checkRulesJob(new Checks({ db, log, againS }), checkEveryMs), pruneNotificationsJob(notifications)],
    start: () => dispatch.start(),
    stop: () => dispatch.stop(),
  };
}
