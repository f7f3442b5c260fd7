import { familiesOf } from '../panel/lineage';
import { rowsOf } from '../panel/rows';
import type { ISnapshot } from '../types';
import { snapshot } from './helpers';

/** Newest first, from what each grew from: `b < a`. */
function grown(...lines: string[]): ISnapshot[] {
  return lines
    .map((line, index) => {
      const [name, parent = ''] = line.split(' < ');
      return snapshot(name, {
        parent,
        path: 'a.ipynb',
        created: new Date(1e12 + index * 1000).toISOString()
      });
    })
    .reverse();
}

function parentsOf(snapshots: readonly ISnapshot[]): Map<string, string> {
  return new Map(snapshots.map(({ name, parent }) => [name, parent]));
}

/** What is drawn: a line each, as indented, and what leads to it. */
function drawn(
  all: readonly ISnapshot[],
  shown: readonly ISnapshot[] = all
): string[] {
  return familiesOf(shown, parentsOf(all), null).flatMap(group =>
    group.snapshots.map(({ name }) => {
      const { depth, from, rails, isGap } = group.branches!.get(name)!;
      const columns = [...Array(depth).keys()].map(column =>
        rails.includes(column)
          ? from === column && from < depth
            ? '├'
            : '│'
          : from === column && from < depth
            ? '└'
            : ' '
      );
      const above = from === depth ? (isGap ? '┆' : '') : isGap ? '╌' : '';
      return columns.join('') + above + name;
    })
  );
}

describe('familiesOf', () => {
  it('keeps what grew from each other in one column, oldest above', () => {
    expect(drawn(grown('a', 'b < a', 'c < b'))).toEqual(['a', 'b', 'c']);
  });

  it('indents where there are several', () => {
    const all = grown('a', 'b < a', 'b1 < b', 'c < a', 'd < b1', 'e < b1');
    expect(drawn(all)).toEqual(['a', '├b', '│b1', '│├d', '│└e', '└c']);
  });

  it('puts what grew from something that is not shown below what is above it', () => {
    const all = grown('a', 'b < a', 'c < b', 'd < a');
    const shown = all.filter(({ name }) => name !== 'b');
    expect(drawn(all, shown)).toEqual(['a', '├╌c', '└d']);
    expect(
      drawn(
        all,
        all.filter(({ name }) => 'bd'.includes(name))
      )
    ).toEqual(['d', 'b']);
    expect(
      drawn(
        all,
        all.filter(({ name }) => 'ac'.includes(name))
      )
    ).toEqual(['a', '┆c']);
  });

  it('has forks where they came from, whatever their notebooks are', () => {
    const all = grown('a', 'b < a', 'x');
    all[1] = { ...all[1], path: 'a-fork.ipynb', kernel_id: 'fork' };
    all[0] = { ...all[0], path: 'x.ipynb', kernel_id: 'other' };
    const groups = familiesOf(all, parentsOf(all), {
      kernelId: 'fork',
      path: 'a-fork.ipynb'
    });
    expect(groups.map(({ path, isCurrent }) => [path, isCurrent])).toEqual([
      ['a.ipynb', true],
      ['x.ipynb', false]
    ]);
    const { branches } = groups[0];
    expect(branches!.get('a')!.path).toBe('');
    expect(branches!.get('b')!.path).toBe('a-fork.ipynb');
  });

  it('tells readers where a row is', () => {
    const all = grown('a', 'b < a', 'b1 < b', 'c < a');
    const groups = familiesOf(all, parentsOf(all), null);
    const [group, ...items] = rowsOf(groups, new Set());
    expect(
      items.map(row =>
        row.kind === 'snapshot'
          ? [row.key, row.above, row.position, row.size]
          : row.kind
      )
    ).toEqual([
      ['a', group.key, 1, 1],
      ['b', 'a', 1, 3],
      ['b1', 'b', 2, 3],
      ['c', 'a', 3, 3]
    ]);
  });

  it('does not despair of what it should never be told', () => {
    const all = grown('a < b', 'b < a', 'c < c', 'd < nobody');
    const found = familiesOf(all, parentsOf(all), null);
    expect(
      found.flatMap(group => group.snapshots.map(({ name }) => name)).sort()
    ).toEqual(['a', 'b', 'c', 'd']);
  });

  it('is quick with thousands of generations, and with as many siblings', () => {
    const count = 20000;
    const lines = Array.from({ length: count }, (_, n) =>
      n ? `${n} < ${n % 2 ? 0 : n - 1}` : '0'
    );
    const chain = Array.from({ length: count }, (_, n) =>
      n ? `${n} < ${n - 1}` : '0'
    );
    for (const all of [grown(...lines), grown(...chain)]) {
      const began = performance.now();
      const [group] = familiesOf(all, parentsOf(all), null);
      expect(group.snapshots.length).toBe(count);
      expect(performance.now() - began).toBeLessThan(2000);
    }
  });
});
