import type { ISnapshot } from '../types';
import type { IBranch } from './lineage';

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
  /** In the order in which they are shown. */
  snapshots: readonly ISnapshot[];
  /** By lineage: where each stands, by name. */
  branches?: ReadonlyMap<string, IBranch>;
}

/** A snapshot, at its place in its group. */
export interface IItem {
  kind: 'snapshot';
  key: string;
  snapshot: ISnapshot;
  /** By lineage: where it stands there. */
  branch?: IBranch;
  /** The key of the row that it belongs under. */
  above: string;
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
    [
      snapshot.name,
      snapshot.note,
      snapshot.cell,
      snapshot.path,
      snapshot.kernel_name
    ].some(field => field.toLocaleLowerCase().includes(wanted))
  );
}

/** Whether a snapshot is of what the person works with. */
export function isOf(snapshot: ISnapshot, current: ICurrent): boolean {
  return (
    snapshot.kernel_id === current.kernelId ||
    (current.path !== '' && snapshot.path === current.path)
  );
}

/** Where a snapshot comes from: its notebook, or else its kernel or process. */
export function originOf({ path, kernel_id, comm, pid }: ISnapshot): string {
  return path || kernel_id || `${comm} ${pid}`;
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
    const isCurrent = current !== null && isOf(snapshot, current);
    const key = isCurrent ? 'current' : `of ${originOf(snapshot)}`;
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
      : group.snapshots.map((snapshot, index): IItem => {
          const branch = group.branches?.get(snapshot.name);
          return {
            kind: 'snapshot',
            key: snapshot.name,
            snapshot,
            branch,
            above: branch?.above ?? group.key,
            position: branch?.position ?? index + 1,
            size: branch?.size ?? group.snapshots.length
          };
        }))
  ]);
}
