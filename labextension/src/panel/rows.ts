import type { ISnapshot } from '../types';

/** The snapshots of one notebook, or of one kernel that had none. */
export interface IGroup {
  kind: 'group';
  key: string;
  /** Of the notebook; empty if there is none. */
  path: string;
  kernelName: string;
  kernelId: string;
  /** Whether it is what the person is working with. */
  isCurrent: boolean;
  snapshots: readonly ISnapshot[];
}

/** A snapshot, at its place in its group. */
export interface IItem {
  kind: 'snapshot';
  key: string;
  snapshot: ISnapshot;
  /** From 1. */
  position: number;
  size: number;
}

/** One line of the list. */
export type Row = IGroup | IItem;

/** What the person is working with. */
export interface ICurrent {
  kernelId: string;
  path: string;
}

/**
 * Whether a text occurs in what people see of a snapshot, in upper or lower case: what the
 * server does for `q`.
 */
export function matches(snapshot: ISnapshot, text: string): boolean {
  const wanted = text.trim().toLocaleLowerCase();
  return (
    !wanted ||
    [snapshot.name, snapshot.note, snapshot.path, snapshot.kernel_name].some(
      field => field.toLocaleLowerCase().includes(wanted)
    )
  );
}

/**
 * Snapshots by notebook, or by kernel where there is none: the current one first, then in
 * the order of their newest snapshots.
 *
 * @param snapshots Newest first.
 */
export function groupsOf(
  snapshots: readonly ISnapshot[],
  current: ICurrent | null
): IGroup[] {
  const groups = new Map<string, IGroup & { snapshots: ISnapshot[] }>();
  for (const snapshot of snapshots) {
    const isCurrent =
      current !== null &&
      (snapshot.kernel_id === current.kernelId ||
        (current.path !== '' && snapshot.path === current.path));
    const origin =
      snapshot.path || snapshot.kernel_id || `${snapshot.comm} ${snapshot.pid}`;
    const key = isCurrent ? 'current' : `of ${origin}`;
    let group = groups.get(key);
    if (!group) {
      group = {
        kind: 'group',
        key,
        path: isCurrent ? current.path || snapshot.path : snapshot.path,
        kernelName: snapshot.kernel_name || snapshot.comm,
        kernelId: isCurrent ? current.kernelId : snapshot.kernel_id,
        isCurrent,
        snapshots: []
      };
      groups.set(key, group);
    }
    group.snapshots.push(snapshot);
  }
  return [...groups.values()].sort(
    (a, b) => Number(b.isCurrent) - Number(a.isCurrent)
  );
}

/**
 * The lines of a list: each group, and its snapshots unless it is collapsed.
 */
export function rowsOf(
  groups: readonly IGroup[],
  collapsed: ReadonlySet<string>
): Row[] {
  return groups.flatMap(group => [
    group,
    ...(collapsed.has(group.key)
      ? []
      : group.snapshots.map((snapshot, index): IItem => ({
          kind: 'snapshot',
          key: snapshot.name,
          snapshot,
          position: index + 1,
          size: group.snapshots.length
        })))
  ]);
}
