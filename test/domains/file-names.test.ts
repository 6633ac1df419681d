import { describe, expect, test } from 'vitest';
import { folderPath, pathProblem } from '../../src/domains/files/file-path.js';
import { disposition, mediaTypeOf, presentation } from '../../src/domains/files/presentation.js';

describe('the path of a file', () => {
  test.each([
    'a',
    'a/b/c.txt',
    '.env',
    '..a',
    'a..',
    '...',
    'with space',
    `it's "quoted"`,
    'a?b#c&d=e%2F',
    '😀/é/e\u0301',
    'a\\b',
    'x'.repeat(255),
    Array(64).fill('d').join('/'),
  ])('may be %j', (path) => expect(pathProblem(path)).toBeUndefined());

  test.each([
    ['', /empty/],
    ['/etc/passwd', /relative/],
    ['a//b', /two slashes/],
    ['a/', /at its end/],
    ['..', /segment/],
    ['a/../b', /segment/],
    ['./a', /segment/],
    ['a\0b', /control/],
    ['a\nb', /control/],
    ['a\u007fb', /control/],
    ['\ud800', /Unicode/],
    ['x'.repeat(256), /255 bytes/],
    ['é'.repeat(128), /255 bytes/],
    [Array(65).fill('d').join('/'), /64 names deep/],
    [Array(40).fill('x'.repeat(200)).join('/'), /4096 bytes/],
  ])('may not be %j', (path, why) => expect(pathProblem(path)).toMatch(why));

  test('of the workspace itself is nothing', () => {
    expect(['', '.', '/', './'].map((path) => folderPath(path, 'path'))).toEqual(['', '', '', '']);
    expect(folderPath('a/b/', 'path')).toBe('a/b');
    for (const path of ['//', '..', '/a', 'a//']) expect(() => folderPath(path, 'path')).toThrow('invalid path');
  });
});

describe('what a browser is told of a file', () => {
  test.each([
    ['a.txt', 'text/plain; charset=utf-8'],
    ['a.md', 'text/markdown; charset=utf-8'],
    ['a.ts', 'text/plain; charset=utf-8'],
    ['A.PNG', 'image/png'],
    ['a.json', 'application/json; charset=utf-8'],
    ['a.html', 'text/html; charset=utf-8'],
    ['a.svg', 'image/svg+xml'],
    ['a', 'application/octet-stream'],
    ['.env', 'text/plain; charset=utf-8'],
    ['a.', 'application/octet-stream'],
    ['a.unheard-of', 'application/octet-stream'],
    ['__proto__', 'application/octet-stream'],
    ['a.constructor', 'application/octet-stream'],
  ])('%s is %s', (name, type) => expect(mediaTypeOf(name)).toBe(type));

  test.each(['x.html', 'x.htm', 'x.xhtml', 'x.svg', 'x.xml', 'x.js', 'x.mjs', 'x.pdf', 'x.swf', 'x.mht', 'x', 'x.wasm', 'x.css'])(
    '%s is for download, never to be run',
    (name) => {
      const headers = presentation(`folder/${name}`, undefined);
      expect(headers['Content-Disposition']).toBe(`attachment; filename="${name}"`);
      expect(headers['Content-Security-Policy']).toMatch(/^sandbox;/);
      expect(headers['X-Content-Type-Options']).toBe('nosniff');
    },
  );

  test('pictures and plain text are shown, and offered for download where that is asked for', () => {
    expect(presentation('a/p.png', undefined)['Content-Disposition']).toBe('inline; filename="p.png"');
    expect(presentation('a/p.png', true)['Content-Disposition']).toBe('attachment; filename="p.png"');
    expect(presentation('a/p.png', 'q.png')['Content-Disposition']).toBe('attachment; filename="q.png"');
  });

  test.each([
    ['plain.txt', 'attachment; filename="plain.txt"'],
    ['a b.txt', 'attachment; filename="a b.txt"'],
    [`it's.txt`, `attachment; filename="it's.txt"`],
    ['"; x="y.txt', `attachment; filename="_; x=_y.txt"; filename*=UTF-8''%22%3B%20x%3D%22y.txt`],
    ['é(1)*.txt', `attachment; filename="_(1)*.txt"; filename*=UTF-8''%C3%A9%281%29%2A.txt`],
    ['😀.txt', `attachment; filename="_.txt"; filename*=UTF-8''%F0%9F%98%80.txt`],
    ['100%.txt', `attachment; filename="100_.txt"; filename*=UTF-8''100%25.txt`],
    ['a\\b', `attachment; filename="a_b"; filename*=UTF-8''a%5Cb`],
    ['a\r\nSet-Cookie: x', `attachment; filename="a__Set-Cookie: x"; filename*=UTF-8''a%0D%0ASet-Cookie%3A%20x`],
  ])('the name %j goes into one header', (name, header) => expect(disposition('attachment', name)).toBe(header));
});
