import { networkInterfaces } from 'node:os';
import { expect, test } from 'vitest';
import { type AddressClass, canonicalAddress, classifyAddress, hostAddresses } from '../../src/lib/addresses.js';

const TABLE: Record<AddressClass, string> = {
  public:
    '1.1.1.1 8.8.8.8 93.184.216.34 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 ' +
    '172.15.255.255 172.32.0.0 192.0.1.0 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 168.63.129.15 ' +
    '2000::1 2606:4700::1111 2a00:1450:4001::200e 2001:200::1 2001:4860:4860::8888 2003::1 3ffe::1',
  'this-network': '0.0.0.0 0.0.0.1 0.255.255.255 :: 0:0:0:0:0:0:0:0',
  private: '10.0.0.0 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.0 192.168.255.255 fc00::1 fd12:3456::1 fdff::1 fec0::1',
  loopback: '127.0.0.1 127.1.2.3 127.255.255.255 ::1 0:0:0:0:0:0:0:1',
  'link-local': '169.254.0.1 169.254.169.253 169.254.255.255 fe80::1 febf::1',
  cgnat: '100.64.0.0 100.127.255.255',
  metadata: '169.254.169.254 169.254.170.2 168.63.129.16 100.100.100.200 192.0.0.192 fd00:ec2::254 fd20:ce::254',
  multicast: '224.0.0.1 239.255.255.255 ff02::1 ff0e::1',
  broadcast: '255.255.255.255',
  reserved:
    '192.0.0.1 240.0.0.1 255.255.255.254 100::1 5f00::1 1fff::1 4000::1 8000::1 2001:1::1 2001:10::1 2001:20::1 2001:1ff::1 fe00::1',
  documentation: '192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1 3fff::1 3fff:fff::1',
  benchmarking: '198.18.0.1 198.19.255.255 2001:2::1',
  mapped: '::ffff:8.8.8.8 ::ffff:127.0.0.1 ::ffff:7f00:1 ::ffff:a9fe:a9fe ::8.8.8.8 ::127.0.0.1 ::2',
  translated: '64:ff9b::8.8.8.8 64:ff9b::a9fe:a9fe 64:ff9b:1::1 ::ffff:0:127.0.0.1',
  tunnel:
    '2002:7f00:1::1 2002:808:808::1 2001::1 2001:0:5ef5:79fb::1 192.88.99.1 2606:4700::5efe:127.0.0.1 2606:4700::200:5efe:a00:1',
  invalid: '127.1 0177.0.0.1 2130706433 0x7f.0.0.1 1.2.3 1.2.3.4.5 256.1.1.1 fe80::1%eth0 ::1%lo localhost [::1] 1.1.1.1:80',
};

test.each(Object.entries(TABLE))('%s addresses are known as such', (is, addresses) => {
  for (const address of addresses.split(' ')) expect(`${address} ${classifyAddress(address)}`).toBe(`${address} ${is}`);
  expect(classifyAddress('')).toBe('invalid');
  expect(classifyAddress(' 1.1.1.1')).toBe('invalid');
});

test('spellings of one address are the same', () => {
  expect(canonicalAddress('2606:4700:0:0:0:0:0:1111')).toBe(canonicalAddress('2606:4700::1111'));
  expect(canonicalAddress('FE80::1%eth0')).toBe(canonicalAddress('fe80::1'));
  expect(canonicalAddress('0.0.0.1')).not.toBe(canonicalAddress('::1'));
});

test('the host knows all its own addresses', () => {
  const own = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  const known = hostAddresses();
  for (const entry of own) expect(known.has(canonicalAddress(entry.address))).toBe(true);
});
