import { expect, test, vi } from 'vitest';
import { LocalBus } from '../../src/events/local-bus.js';
import { createLog } from '../../src/lib/log.js';

const log = createLog('silent');

test('tells the subscribers of a topic, and of all topics, before publish returns', () => {
  const bus = new LocalBus(log);
  const heard: string[] = [];
  bus.subscribe('agent', (id) => heard.push(`agent ${id}`));
  bus.subscribe('user', (id) => heard.push(`user ${id}`));
  bus.subscribe('*', (id, topic) => heard.push(`any ${topic} ${id}`));
  bus.publish('agent', 'agt_1');
  expect(heard).toEqual(['agent agt_1', 'any agent agt_1']);
  expect(bus.trusted).toBe(true);
});

test('tells nobody after the subscription ended, and each subscription ends by itself', () => {
  const bus = new LocalBus(log);
  const listener = vi.fn();
  const [end, endOther] = [bus.subscribe('key', listener), bus.subscribe('key', listener)];
  bus.publish('key', 'a');
  end();
  end();
  bus.publish('key', 'b');
  endOther();
  bus.publish('key', 'c');
  expect(listener.mock.calls).toEqual([
    ['a', 'key'],
    ['a', 'key'],
    ['b', 'key'],
  ]);
});

test('logs a listener that throws, and tells the others', () => {
  const error = vi.fn();
  const bus = new LocalBus({ error } as unknown as typeof log);
  const listener = vi.fn();
  bus.subscribe('key', () => {
    throw new Error('broken listener');
  });
  bus.subscribe('key', listener);
  bus.publish('key', 'key_1');
  expect(listener).toHaveBeenCalledOnce();
  expect(error).toHaveBeenCalledExactlyOnceWith(
    expect.objectContaining({ topic: 'key', id: 'key_1' }),
    expect.stringContaining('broken listener'),
  );
});

test('a listener that subscribes or ends subscriptions while it is told does not disturb the round', () => {
  const bus = new LocalBus(log);
  const late = vi.fn();
  const end = bus.subscribe('key', () => {
    end();
    bus.subscribe('key', late);
  });
  bus.publish('key', '1');
  expect(late).not.toHaveBeenCalled();
  bus.publish('key', '2');
  expect(late).toHaveBeenCalledOnce();
});
