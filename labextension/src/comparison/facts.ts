import type { TranslationBundle } from '@jupyterlab/translation';

import { formatBytes } from '../format';
import type {
  IComparison,
  IDescriptor,
  IProcessDifference,
  ISnapshot,
  IVariable,
  IVariableDifference
} from '../types';

/** What kernels and their clients open for themselves, of which nobody wants to hear. */
const UNSEEN = new Set([
  'eventfd',
  'epoll',
  'tcp_socket',
  'unix_socket',
  'timerfd',
  'signalfd'
]);

/** What has become of something. */
export type Change = IVariableDifference['change'];

/** A change as a sign, which is the same in all languages. */
export const SIGNS: Record<Change, string> = {
  added: '+',
  removed: '−',
  changed: '≠',
  unknown: '?'
};

/** A change in words. */
export function wordOf(change: Change, trans: TranslationBundle): string {
  switch (change) {
    case 'added':
      return trans.__('added');
    case 'removed':
      return trans.__('removed');
    case 'changed':
      return trans.__('changed');
    case 'unknown':
      return trans.__('perhaps changed');
  }
}

/** Type and shape of a variable: `DataFrame · 3 x 2`. */
export function kindOf({ type, shape }: IVariable): string {
  return shape ? `${type} · ${shape}` : type;
}

/** What may be the same comes last. */
export function certainFirst(
  differences: readonly IVariableDifference[]
): IVariableDifference[] {
  const isUncertain = (difference: IVariableDifference) =>
    Number(difference.change === 'unknown');
  return [...differences].sort((a, b) => isUncertain(a) - isUncertain(b));
}

/** Two snapshots, the older one first. */
export function inOrder(
  one: ISnapshot,
  other: ISnapshot
): [ISnapshot, ISnapshot] {
  return Date.parse(one.created) <= Date.parse(other.created)
    ? [one, other]
    : [other, one];
}

/** Processes that a person wants to hear of, and of their files those. */
export function notable(
  processes: readonly IProcessDifference[]
): IProcessDifference[] {
  return processes
    .map(process => ({
      ...process,
      opened: process.opened.filter(isNotable),
      closed: process.closed.filter(isNotable)
    }))
    .filter(
      ({ change, state, threads, opened, closed }) =>
        change !== 'changed' ||
        state !== null ||
        threads !== null ||
        opened.length > 0 ||
        closed.length > 0
    );
}

/** An open file that is not the same. */
export interface IFileDifference {
  fd: number;
  change: 'added' | 'removed' | 'changed';
  path: string;
  /** Where it is read or written next, if that is what has changed. */
  before: string;
  after: string;
}

const POSITION = / at (\d+) of \d+$/;

/** Files of a process: what was closed, and opened, and read or written in between. */
export function filesOf(process: IProcessDifference): IFileDifference[] {
  const opened = new Map(process.opened.map(file => [keyOf(file), file]));
  const files = process.closed.map((file): IFileDifference => {
    const again = opened.get(keyOf(file));
    opened.delete(keyOf(file));
    return again
      ? {
          ...fileOf(file, 'changed'),
          before: positionOf(file),
          after: positionOf(again)
        }
      : fileOf(file, 'removed');
  });
  return [...files, ...[...opened.values()].map(file => fileOf(file, 'added'))];
}

function fileOf(
  { fd, what }: IDescriptor,
  change: IFileDifference['change']
): IFileDifference {
  return {
    fd,
    change,
    path: what.replace(POSITION, ''),
    before: '',
    after: ''
  };
}

function keyOf({ fd, kind, what }: IDescriptor): string {
  return `${fd} ${kind} ${what.replace(POSITION, '')}`;
}

function positionOf({ what }: IDescriptor): string {
  return POSITION.exec(what)?.[1] ?? '';
}

function isNotable({ kind }: IDescriptor): boolean {
  return !UNSEEN.has(kind);
}

/** What memory has become, without what is not there. */
export function memoryRows(
  memory: IComparison['memory'],
  trans: TranslationBundle
): [string, string][] {
  const rows: [string, number][] = [
    [trans.__('Changed'), memory.changed],
    [trans.__('Added'), memory.added],
    [trans.__('Given back'), memory.removed],
    [trans.__('The same'), memory.same]
  ];
  return rows
    .filter(([, bytes]) => bytes > 0)
    .map(([term, bytes]) => [term, formatBytes(bytes)]);
}
