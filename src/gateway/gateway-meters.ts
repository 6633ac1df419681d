import type { Readable } from 'node:stream';
import type { Meters } from '../lib/meters.js';

/** What is timed of the calls to gateways. */
export interface GatewayMeters {
  /** Of a turn, as it is relayed. */
  first(seconds: number): void;
  whole(seconds: number): void;
  /** A gateway took its agents. */
  told(seconds: number): void;
}

export function gatewayMeters(meters: Meters): GatewayMeters {
  const first = meters.histogram({
    name: 'berth_relay_first_event_seconds',
    help: 'From a turn being asked of an instance to the first thing that it says.',
  });
  const whole = meters.histogram({
    name: 'berth_relay_turn_duration_seconds',
    help: 'From a turn being asked of an instance to the end of its stream, whatever ended it.',
  });
  const told = meters.histogram({
    name: 'berth_gateway_configure_duration_seconds',
    help: 'From a config with agents in it being sent to a gateway to its word that they are there.',
  });
  return {
    first: (seconds) => first({}, seconds),
    whole: (seconds) => whole({}, seconds),
    told: (seconds) => told({}, seconds),
  };
}

/** Only the first event and the end pay for being timed. */
export function noteTurn<T>(
  events: AsyncGenerator<T>,
  body: Readable,
  beganMs: number,
  meters: GatewayMeters,
): AsyncGenerator<T> {
  const seconds = () => (performance.now() - beganMs) / 1000;
  const next = events.next.bind(events);
  events.next = async (...args) => {
    events.next = next;
    const first = await next(...args);
    meters.first(seconds());
    return first;
  };
  body.once('close', () => meters.whole(seconds()));
  return events;
}
