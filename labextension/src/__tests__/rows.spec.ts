import { groupsOf, matches, rowsOf } from '../panel/rows';
import { snapshot } from './helpers';

describe('matches', () => {
  const one = snapshot('before-training', {
    note: 'with the Cleaned table',
    path: 'analysis/model.ipynb',
    kernel_name: 'python3',
    cell: '[7] table = load()'
  });

  it.each(['', '  ', 'TRAIN', 'cleaned', 'model.ipynb', 'Python', 'table = '])(
    '“%s” is found',
    text => {
      expect(matches(one, text)).toBe(true);
    }
  );

  it('finds nothing else', () => {
    expect(matches(one, 'untrained')).toBe(false);
  });
});

describe('groupsOf', () => {
  const snapshots = [
    snapshot('d', { path: 'b.ipynb', kernel_id: 'k2' }),
    snapshot('c', { path: 'a.ipynb', kernel_id: 'k1' }),
    snapshot('b', { path: '', kernel_id: 'k3', kernel_name: 'ir' }),
    snapshot('a', { path: 'a.ipynb', kernel_id: 'k0' })
  ];

  it('is by notebook, and by kernel where there is none', () => {
    const groups = groupsOf(snapshots, null);
    expect(
      groups.map(group => group.snapshots.map(({ name }) => name))
    ).toEqual([['d'], ['c', 'a'], ['b']]);
    expect(groups.map(group => group.path)).toEqual(['b.ipynb', 'a.ipynb', '']);
    expect(groups[2].kernelName).toBe('ir');
  });

  it('has the current one first', () => {
    const current = { kernelId: 'k1', path: 'a.ipynb' };
    const [first, ...others] = groupsOf(snapshots, current);
    expect(first.isCurrent).toBe(true);
    expect(first.snapshots.map(({ name }) => name)).toEqual(['c', 'a']);
    expect(others.map(group => group.isCurrent)).toEqual([false, false]);
  });

  it('knows the current kernel under the former name of its notebook', () => {
    const current = { kernelId: 'k2', path: 'renamed.ipynb' };
    const [first] = groupsOf(snapshots, current);
    expect(first.path).toBe('renamed.ipynb');
    expect(first.snapshots.map(({ name }) => name)).toEqual(['d']);
  });
});

describe('rowsOf', () => {
  const groups = groupsOf(
    [snapshot('b', { path: 'a.ipynb' }), snapshot('a', { path: 'a.ipynb' })],
    null
  );

  it('counts within the group', () => {
    const rows = rowsOf(groups, new Set());
    expect(rows.map(({ key }) => key)).toEqual([groups[0].key, 'b', 'a']);
    expect(rows[2]).toMatchObject({ position: 2, size: 2 });
  });

  it('leaves out what is collapsed', () => {
    expect(rowsOf(groups, new Set([groups[0].key]))).toEqual(groups);
  });
});
