import {
  baseName,
  formatAge,
  formatBytes,
  formatDuration,
  formatTime,
  nextName,
  splitStamp,
  stemOf
} from '../format';

describe('formatBytes', () => {
  it.each([
    [0, '0 bytes'],
    [1, '1 byte'],
    [999, '999 bytes'],
    [1000, '1 kB'],
    [1520, '1.5 kB'],
    [52_428_800, '52 MB'],
    [999_700_000, '1 GB'],
    [1_073_741_824, '1.1 GB'],
    [5e15, '5,000 TB']
  ])('%d bytes are %s', (bytes, text) => {
    expect(formatBytes(bytes, 'en')).toBe(text);
  });
});

describe('formatDuration', () => {
  it.each([
    [0.3, '0 ms'],
    [12.5, '13 ms'],
    [999.6, '1 sec'],
    [1440, '1.4 sec']
  ])('%d ms are %s', (ms, text) => {
    expect(formatDuration(ms, 'en')).toBe(text);
  });
});

describe('formatAge', () => {
  it('tells how long ago', () => {
    const then = new Date(Date.now() - 3 * 60_000);
    expect(formatAge(then.toISOString())).toMatch(/3 min/);
  });

  it('does not tell of the future', () => {
    const then = new Date(Date.now() + 60_000);
    expect(formatAge(then.toISOString())).not.toMatch(/^in /);
  });
});

describe('formatTime', () => {
  it('tells day and second', () => {
    expect(formatTime('2026-11-24T21:54:03', 'en')).toMatch(
      /Nov 24, 2026.*54:03/
    );
  });
});

describe('paths', () => {
  it('have an end', () => {
    expect(baseName('a/b/c.ipynb')).toBe('c.ipynb');
    expect(baseName('c.ipynb')).toBe('c.ipynb');
  });

  it('lose the ending of notebooks only', () => {
    expect(stemOf('a/b.ipynb')).toBe('a/b');
    expect(stemOf('a/b.py')).toBe('a/b.py');
  });
});

describe('nextName', () => {
  it('counts what has that name', () => {
    expect(nextName('model', [])).toBe('model-1');
    const names = ['model-1', 'model-10', 'model-x', 'modeller-30', 'other-40'];
    expect(nextName('model', names)).toBe('model-11');
  });
});

describe('splitStamp', () => {
  it.each([
    ['before-cleaned-20261128-101003', 'before-cleaned', '-20261128-101003'],
    ['before-a-20261128-101003-2', 'before-a', '-20261128-101003-2'],
    [
      'before-before-a-20261128-101003-20261128-101204',
      'before-before-a-20261128-101003',
      '-20261128-101204'
    ],
    ['model-3', 'model-3', ''],
    ['-20261128-101003', '-20261128-101003', ''],
    ['2026-11-28', '2026-11-28', '']
  ])('%s is %s and %s', (name, base, stamp) => {
    expect(splitStamp(name)).toEqual([base, stamp]);
  });
});
