import { nullTranslator } from '@jupyterlab/translation';

import {
  certainFirst,
  inOrder,
  kindOf,
  memoryRows,
  notable
} from '../comparison/facts';
import type {
  IDescriptor,
  IProcessDifference,
  IVariableDifference
} from '../types';
import { snapshot } from './helpers';

const trans = nullTranslator.load('jupyter_cr');

function file(fd: number, what: string, kind = 'regular_file'): IDescriptor {
  return { fd, what, kind, file: fd, cloexec: false };
}

function process(more: Partial<IProcessDifference>): IProcessDifference {
  return {
    pid: 7,
    name: 'python',
    change: 'changed',
    state: null,
    threads: null,
    opened: [],
    closed: [],
    ...more
  };
}

describe('inOrder', () => {
  const early = snapshot('early', { created: '2026-11-24T21:54:03.1+00:00' });
  const late = snapshot('late', { created: '2026-11-24T21:54:03.200+00:00' });

  it('has the older one first, whichever was chosen first', () => {
    expect(inOrder(late, early)).toEqual([early, late]);
    expect(inOrder(early, late)).toEqual([early, late]);
  });
});

describe('variables', () => {
  it('have a type, and a shape if there is one', () => {
    const one = { name: 'x', type: 'int', shape: '', value: '1' };
    expect(kindOf(one)).toBe('int');
    expect(kindOf({ ...one, type: 'list', shape: '3' })).toBe('list · 3');
  });

  it('that may be the same come last, in the order that they had', () => {
    const named = (name: string, change: IVariableDifference['change']) => ({
      name,
      change,
      before: null,
      after: null
    });
    const sorted = certainFirst([
      named('a', 'unknown'),
      named('b', 'added'),
      named('c', 'unknown'),
      named('d', 'changed')
    ]);
    expect(sorted.map(({ name }) => name)).toEqual(['b', 'd', 'a', 'c']);
  });
});

describe('notable', () => {
  it('leaves out what kernels open for themselves', () => {
    const sockets = [file(3, 'tcp 127.0.0.1:5000', 'tcp_socket')];
    expect(notable([process({ opened: sockets })])).toEqual([]);
    const log = file(4, '/tmp/run.log at 0 of 0');
    const [found] = notable([process({ opened: [...sockets, log] })]);
    expect(found.files.map(({ path }) => path)).toEqual(['/tmp/run.log']);
  });

  it('has processes that came or went, or do something else', () => {
    const all = [
      process({ change: 'added' }),
      process({ state: ['running', 'stopped'] }),
      process({ threads: [1, 4] })
    ];
    expect(notable(all)).toHaveLength(3);
  });
});

describe('files', () => {
  const filesOf = (closed: IDescriptor[], opened: IDescriptor[]) =>
    notable([process({ closed, opened })])[0]?.files;

  it('that are open before and after are one', () => {
    const found = filesOf(
      [file(1, '/a at 5 of 9'), file(2, '/b at 0 of 0')],
      [file(1, '/a at 9 of 9'), file(2, '/c at 0 of 0')]
    );
    expect(found).toEqual([
      { fd: 1, change: 'changed', path: '/a', before: '5', after: '9' },
      { fd: 2, change: 'removed', path: '/b', before: '', after: '' },
      { fd: 2, change: 'added', path: '/c', before: '', after: '' }
    ]);
  });

  it('that only others have written, and pipes of a fork, are the same', () => {
    const found = filesOf(
      [file(1, '/a at 5 of 9'), file(2, 'pipe:[17], read', 'pipe')],
      [file(1, '/a at 5 of 12'), file(2, 'pipe:[99], read', 'pipe')]
    );
    expect(found).toBeUndefined();
  });
});

describe('memoryRows', () => {
  it('leaves out what is not there', () => {
    const memory = {
      changed: 4096,
      added: 0,
      removed: 0,
      same: 8192,
      problem: ''
    };
    expect(memoryRows(memory, trans).map(([term]) => term)).toEqual([
      'Changed',
      'The same'
    ]);
  });
});
