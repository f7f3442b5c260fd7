import type { ISnapshot } from '../types';
import { type ICurrent, type IGroup, isOf, originOf } from './rows';

/**
 * Where a snapshot stands in the tree of what grew from what.
 *
 * A kernel's snapshots mostly come one after the other, so a tree that is indented once
 * for each would soon have left the panel. It is indented where it branches: what has one
 * child goes on straight below, in the same column, and where there are several each begins
 * a column of its own.
 */
export interface IBranch {
  /** The column, from 0: how often what led to it has branched. */
  depth: number;
  /** Columns of lines that only pass by, on the way to later branches. */
  rails: readonly number[];
  /** The column of what it grew from; null if of nothing that is shown. */
  from: number | null;
  /** Whether something that is not shown stands in between. */
  isGap: boolean;
  /** Whether something that is shown grew from it. */
  goesOn: boolean;
  /** Of its notebook, where that is another one than that of what it grew from. */
  path: string;
  /** The key of the row that it belongs under: what it grew from, or the group. */
  above: string;
  /** Among those with the same branching point, from 1. */
  position: number;
  size: number;
}

/**
 * Snapshots by what they grew from: in each group the trees of one notebook, with the
 * forks that came of them, whatever their notebooks are. First the group of what the person
 * works with, then in the order of their newest snapshots; in a tree, what came first is
 * above.
 *
 * @param snapshots Those that are shown, newest first.
 * @param parents Names of the parents of all there are, also of those that are not shown:
 * what grew from one of these stands under the next above it that is.
 */
export function familiesOf(
  snapshots: readonly ISnapshot[],
  parents: ReadonlyMap<string, string>,
  current: ICurrent | null
): IGroup[] {
  const shown = new Map(snapshots.map(snapshot => [snapshot.name, snapshot]));
  const above = new Map<string, string>();
  const children = new Map<string, ISnapshot[]>();
  for (const snapshot of [...snapshots].reverse()) {
    const parent = shownAbove(snapshot.name, parents, shown);
    above.set(snapshot.name, parent);
    const siblings = children.get(parent);
    if (siblings) {
      siblings.push(snapshot);
    } else {
      children.set(parent, [snapshot]);
    }
  }
  const roots = new Roots(above);
  const families = new Map<string, Family>();
  for (const snapshot of snapshots) {
    const root = shown.get(roots.of(snapshot.name))!;
    const key = `from ${originOf(root)}`;
    let family = families.get(key);
    if (!family) {
      family = new Family(key, children, parents);
      families.set(key, family);
    }
    family.add(root);
    family.isCurrent ||= current !== null && isOf(snapshot, current);
  }
  return [...families.values()]
    .map(family => family.group(current))
    .sort((a, b) => Number(b.isCurrent) - Number(a.isCurrent));
}

/** The trees of one group. */
class Family {
  constructor(
    private readonly key: string,
    private readonly children: ReadonlyMap<string, readonly ISnapshot[]>,
    private readonly parents: ReadonlyMap<string, string>
  ) {}

  isCurrent = false;

  /** A root; once is enough. */
  add(root: ISnapshot): void {
    this.roots.add(root);
  }

  group(current: ICurrent | null): IGroup {
    for (const root of this.roots) {
      this.walk(root);
    }
    for (const branch of this.branches.values()) {
      branch.size = this.sizes.get(branch.set)!;
    }
    const [root] = this.roots;
    const isOwn = current !== null && root.kernel_id === current.kernelId;
    return {
      kind: 'group',
      key: this.key,
      path: (isOwn && current.path) || root.path,
      kernelName: root.kernel_name || root.comm,
      kernelId: root.kernel_id,
      isCurrent: this.isCurrent,
      snapshots: this.snapshots,
      branches: this.branches
    };
  }

  /** Take in a tree, without a call for each of what may be thousands of generations. */
  private walk(root: ISnapshot): void {
    const waiting: IStart[] = [
      { snapshot: root, depth: 0, from: null, rails: [], parent: null, set: '' }
    ];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      const { snapshot, depth, rails, set } = next;
      if (this.branches.has(snapshot.name)) {
        // Nothing grows from itself, but that is for the server to know.
        continue;
      }
      const children = this.children.get(snapshot.name) ?? [];
      this.put(next, children.length > 0);
      if (children.length === 1) {
        const [child] = children;
        const parent = snapshot;
        waiting.push({
          snapshot: child,
          depth,
          from: depth,
          rails,
          parent,
          set
        });
        continue;
      }
      children.forEach((_, index) => {
        // The first is to be the next: from the last to the first.
        const child = children[children.length - 1 - index];
        waiting.push({
          snapshot: child,
          depth: depth + 1,
          from: depth,
          rails: index ? [...rails, depth] : rails,
          parent: snapshot,
          set: snapshot.name
        });
      });
    }
  }

  private put(start: IStart, goesOn: boolean): void {
    const { snapshot, depth, from, rails, parent, set } = start;
    const position = (this.sizes.get(set) ?? 0) + 1;
    this.sizes.set(set, position);
    this.snapshots.push(snapshot);
    this.branches.set(snapshot.name, {
      depth,
      rails,
      from,
      isGap: parent !== null && this.parents.get(snapshot.name) !== parent.name,
      goesOn,
      path: parent && parent.path !== snapshot.path ? snapshot.path : '',
      above: parent?.name ?? this.key,
      position,
      size: 0,
      set
    });
  }

  private readonly roots = new Set<ISnapshot>();
  private readonly snapshots: ISnapshot[] = [];
  private readonly branches = new Map<string, IBranch & { set: string }>();
  private readonly sizes = new Map<string, number>();
}

/** A snapshot that is to be put into a tree. */
interface IStart extends Pick<IBranch, 'depth' | 'from' | 'rails'> {
  snapshot: ISnapshot;
  /** What it is drawn under; null if it is a root. */
  parent: ISnapshot | null;
  /** Where its branch begins. */
  set: string;
}

/** The next above a snapshot that is shown; empty if none is. */
export function shownAbove(
  name: string,
  parents: ReadonlyMap<string, string>,
  shown: { has: (name: string) => boolean }
): string {
  const seen = new Set([name]);
  let parent = parents.get(name) ?? '';
  while (parent && !shown.has(parent)) {
    if (seen.has(parent)) {
      return '';
    }
    seen.add(parent);
    parent = parents.get(parent) ?? '';
  }
  return seen.has(parent) ? '' : parent;
}

/** The first of a snapshot's tree, by name. */
class Roots {
  constructor(private readonly above: ReadonlyMap<string, string>) {}

  of(name: string): string {
    // All on the way to it have the same one: thousands may have grown from each other.
    const way = new Set<string>();
    let root = name;
    while (!this.known.has(root) && !way.has(root) && this.above.get(root)) {
      way.add(root);
      root = this.above.get(root)!;
    }
    root = this.known.get(root) ?? root;
    way.forEach(passed => this.known.set(passed, root));
    return root;
  }

  private readonly known = new Map<string, string>();
}
