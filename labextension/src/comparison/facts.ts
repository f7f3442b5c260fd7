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

/** An open file that is not the same. */
export interface IFileDifference {
  fd: number;
  change: 'added' | 'removed' | 'changed';
  path: string;
  /** Where it is read or written next, if that is what has changed. */
  before: string;
  after: string;
}

/** A process, with those of its files that a person wants to hear of. */
export interface INotable extends Omit<
  IProcessDifference,
  'opened' | 'closed'
> {
  files: IFileDifference[];
}

/** Processes that a person wants to hear of. */
export function notable(processes: readonly IProcessDifference[]): INotable[] {
  return processes
    .map(({ opened, closed, ...process }) => ({
      ...process,
      files: filesOf(closed.filter(isNotable), opened.filter(isNotable))
    }))
    .filter(
      ({ change, state, threads, files }) =>
        change !== 'changed' ||
        state !== null ||
        threads !== null ||
        files.length > 0
    );
}

const POSITION = / at (\d+) of \d+$/;
/** Of a pipe: another one in each tree that was brought back. */
const NUMBER = /:\[\d+\]/;

/** What was closed, and opened, and read or written in between. */
function filesOf(
  closed: readonly IDescriptor[],
  opened: readonly IDescriptor[]
): IFileDifference[] {
  const others = new Map(opened.map(file => [keyOf(file), file]));
  const files: IFileDifference[] = [];
  for (const file of closed) {
    const again = others.get(keyOf(file));
    others.delete(keyOf(file));
    const before = positionOf(file);
    const after = again ? positionOf(again) : '';
    if (!again) {
      files.push(fileOf(file, 'removed'));
    } else if (before !== after) {
      files.push({ ...fileOf(file, 'changed'), before, after });
    }
  }
  return [...files, ...[...others.values()].map(file => fileOf(file, 'added'))];
}

function fileOf(
  { fd, what }: IDescriptor,
  change: IFileDifference['change']
): IFileDifference {
  return { fd, change, path: nameOf(what), before: '', after: '' };
}

function keyOf({ fd, kind, what }: IDescriptor): string {
  return `${fd} ${kind} ${nameOf(what)}`;
}

function nameOf(what: string): string {
  return what.replace(POSITION, '').replace(NUMBER, '');
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
