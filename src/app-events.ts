import { createNotifications } from './app-notifications.js';
import type { AppOptions } from './app-options.js';
import type { ApiKeys } from './domains/api-keys/api-keys.js';
import { pruneEventsJob } from './domains/events/events.jobs.js';
import { Events, type EventsOptions } from './domains/events/events.js';
import { type CarrierOptions, WebhookCarrier } from './domains/webhooks/carrier.js';
import { DeliveryLog } from './domains/webhooks/delivery-log.js';
import { Sender } from './domains/webhooks/sender.js';
import { pruneDeliveriesJob } from './domains/webhooks/webhooks.jobs.js';
import { Webhooks } from './domains/webhooks/webhooks.js';
import { Dispatch, type DispatchOptions } from './lib/dispatch.js';
import { Outbound, type OutboundOptions } from './link/outbound.js';

/** What may be other than usual about streams of events and webhooks. */
export interface EventTimes {
  /** How soon events that nobody spoke of are found, and slow streams ended. */
  events?: Pick<EventsOptions, 'feed' | 'slowMs'>;
  /** Retries of webhooks, and how long a receiver may take. */
  webhooks?: Pick<DispatchOptions, 'everyMs'> & Pick<CarrierOptions, 'retriesS' | 'disableAfterS'>;
  outbound?: OutboundOptions['limits'];
}

/** What tells the outside of events: lists, streams and WebSockets, webhooks, and notifications. */
export function createEvents(options: AppOptions, keys: ApiKeys) {
  const { config, vault, log, processId } = options;
  const { db, bus } = options.database;
  const retentionDays = config.eventsRetentionDays;
  const events = new Events({ db, bus, log, keys, retentionDays, ...options.events });
  const poster = new Outbound({ deny: config.egressDeny, allow: config.webhookAllowPrivate, limits: options.outbound });
  const webhooks = new Webhooks({ db, vault, poster, retentionDays });
  const sender = new Sender({ vault, poster });
  const { everyMs, ...times } = options.webhooks ?? {};
  const dispatch = new Dispatch(new WebhookCarrier({ db, sender, ...times }), { bus, log, processId, everyMs });
  const deliveries = new DeliveryLog({ db, webhooks, sender, hint: (userId) => dispatch.hint(userId) });
  const notifying = createNotifications(options, poster);
  return {
    routes: { events, webhooks, deliveries, ...notifying.routes },
    erasers: [events, webhooks, ...notifying.erasers],
    jobs: [pruneEventsJob(events), pruneDeliveriesJob(webhooks), ...notifying.jobs],
    start() {
      events.start();
      dispatch.start();
      notifying.start();
    },
    endStreams: () => events.close(),
    stop: () => Promise.all([events.stop(), dispatch.stop(), notifying.stop()]),
  };
}
