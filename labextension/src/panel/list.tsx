import type { TranslationBundle } from '@jupyterlab/translation';
import { consoleIcon, notebookIcon } from '@jupyterlab/ui-components';
import { useVirtualizer } from '@tanstack/react-virtual';
import React, { useEffect, useMemo, useRef, useState } from 'react';

import { baseName, formatAge } from '../format';
import { isComparable, type SnapshotModel } from '../model';
import type { ISnapshot } from '../types';
import {
  Caret,
  describe,
  type IEdited,
  type IItemActions,
  Item,
  rowClass
} from './item';
import { shownAbove } from './lineage';
import { type IGroup, type IItem, type Row, rowsOf } from './rows';
import type { Whereabouts } from './whereabouts';

/** How high rows are before they are measured, in pixels. */
const GROUP_HEIGHT = 30;
const ITEM_HEIGHT = 46;

/** How many rows PageUp and PageDown go. */
const PAGE = 10;

/** How long a row that was asked for stands out, in ms. */
const MARK_MS = 2000;

interface IListProps {
  groups: readonly IGroup[];
  /** Names of all that are listed, whatever is searched for. */
  listed: ReadonlySet<string>;
  /** Whether they are in the order in which they grew from each other. */
  isByLineage: boolean;
  model: SnapshotModel;
  whereabouts: Whereabouts;
  /** The kernel that the person works with. */
  kernelId: string;
  actions: Pick<
    IItemActions,
    'restore' | 'fork' | 'commit' | 'export' | 'trust' | 'compareWithNow'
  > & {
    remove: (names: readonly string[]) => void;
    compare: (one: ISnapshot, other: ISnapshot) => void;
    canCompareWithNow: (snapshot: ISnapshot) => boolean;
  };
  /** A snapshot that is to be shown, or edited; another object for each request. */
  request: { kind: 'show' | 'edit'; name: string } | null;
  trans: TranslationBundle;
}

/**
 * Snapshots under their notebooks, as a tree that is moved in with the keyboard. Only what
 * is on the screen is in the page.
 */
export function List(props: IListProps): JSX.Element {
  const { groups, isByLineage, model, request, trans } = props;
  const [collapsed, setCollapsed] = useState<ReadonlySet<string>>(new Set());
  const [expanded, setExpanded] = useState<ReadonlySet<string>>(new Set());
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const [active, setActive] = useState('');
  const [anchor, setAnchor] = useState('');
  const [edited, setEdited] = useState<IEdited | null>(null);
  const [marked, setMarked] = useState('');
  const scroller = useRef<HTMLDivElement>(null);
  const hasFocus = useRef(false);

  const rows = useMemo(() => rowsOf(groups, collapsed), [groups, collapsed]);
  const places = useMemo(
    () => new Map(rows.map((row, place) => [row.key, place])),
    [rows]
  );
  const selected = useMemo(
    () => new Set([...chosen].filter(name => places.has(name))),
    [chosen, places]
  );
  const pair = pairOf(selected, model);
  const virtualizer = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: place =>
      rows[place].kind === 'group' ? GROUP_HEIGHT : ITEM_HEIGHT,
    getItemKey: place => rows[place].key,
    overscan: 12
  });
  const removeAll = (names: readonly string[]) => {
    setChosen(new Set());
    props.actions.remove(names);
  };
  const current = places.has(active) ? active : (rows[0]?.key ?? '');

  const goTo = (place: number) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, place))];
    if (row) {
      hasFocus.current = true;
      setActive(row.key);
      virtualizer.scrollToIndex(places.get(row.key)!);
    }
    return row;
  };

  // The row that has the focus may have to be made first.
  useEffect(() => {
    if (hasFocus.current && !edited) {
      const row = scroller.current?.querySelector<HTMLElement>(
        `[data-key="${CSS.escape(current)}"]`
      );
      row?.focus({ preventScroll: true });
    }
  });

  // In another order, what somebody looked at is elsewhere; by lineage, what the kernel is at
  // is what it is about.
  const wasByLineage = useRef(isByLineage);
  useEffect(() => {
    if (wasByLineage.current !== isByLineage) {
      wasByLineage.current = isByLineage;
      const position = model.position(props.kernelId) ?? '';
      const place = places.get(active) ?? places.get(position) ?? 0;
      virtualizer.scrollToIndex(place, { align: 'auto' });
    }
  }, [isByLineage]);

  useEffect(() => {
    if (!request) {
      return;
    }
    const group = groups.find(group =>
      group.snapshots.some(snapshot => snapshot.name === request.name)
    );
    if (!group) {
      return;
    }
    if (collapsed.has(group.key)) {
      setCollapsed(without(collapsed, group.key));
      return;
    }
    const { name } = request;
    setActive(name);
    virtualizer.scrollToIndex(places.get(name)!, { align: 'auto' });
    if (request.kind === 'edit') {
      setEdited({ name, field: 'name' });
      return;
    }
    setMarked(name);
    const timer = window.setTimeout(() => setMarked(''), MARK_MS);
    return () => window.clearTimeout(timer);
  }, [request, places.has(request?.name ?? '')]);

  const now: IItemActions = {
    restore: props.actions.restore,
    fork: props.actions.fork,
    remove: snapshot => props.actions.remove([snapshot.name]),
    export: props.actions.export,
    trust: props.actions.trust,
    compareWithNow: props.actions.compareWithNow,
    toggle: name => setExpanded(toggled(expanded, name)),
    edit: target => {
      hasFocus.current = true;
      setEdited(target);
    },
    commit: async (target, text) => {
      const isTaken = await props.actions.commit(target, text);
      if (isTaken && target.field === 'name') {
        setActive(text);
        setChosen(new Set());
      }
      return isTaken;
    }
  };

  const latest = useRef(now);
  latest.current = now;
  // The same for ever, so that rows need not be made anew.
  const actions = useMemo(
    (): IItemActions => ({
      restore: snapshot => latest.current.restore(snapshot),
      fork: snapshot => latest.current.fork(snapshot),
      remove: snapshot => latest.current.remove(snapshot),
      export: snapshot => latest.current.export(snapshot),
      trust: snapshot => latest.current.trust(snapshot),
      compareWithNow: snapshot => latest.current.compareWithNow(snapshot),
      toggle: name => latest.current.toggle(name),
      edit: target => latest.current.edit(target),
      commit: (target, text) => latest.current.commit(target, text)
    }),
    []
  );

  const select = (
    row: IItem,
    event: React.MouseEvent | React.KeyboardEvent
  ) => {
    const name = row.key;
    setActive(name);
    if (event.shiftKey && anchor) {
      setChosen(new Set(namesBetween(rows, places, anchor, name)));
      return;
    }
    setAnchor(name);
    setChosen(
      event.ctrlKey || event.metaKey ? toggled(selected, name) : new Set([name])
    );
  };

  const onKeyDown = (event: React.KeyboardEvent) => {
    const place = places.get(current) ?? 0;
    const row = rows[place];
    if (!row || (event.target as HTMLElement).tagName === 'INPUT') {
      return;
    }
    const isItem = row.kind === 'snapshot';
    const move = (to: number) => {
      const row = goTo(to);
      if (event.shiftKey && row?.kind === 'snapshot') {
        const start = anchor || current;
        setAnchor(start);
        setChosen(new Set(namesBetween(rows, places, start, row.key)));
      }
    };
    const isOpen = isItem ? expanded.has(row.key) : !collapsed.has(row.key);
    const flip = () =>
      isItem
        ? setExpanded(toggled(expanded, row.key))
        : setCollapsed(toggled(collapsed, row.key));
    const names = selected.size ? [...selected] : isItem ? [row.key] : [];
    const keys: Record<string, () => void> = {
      ArrowDown: () => move(place + 1),
      ArrowUp: () => move(place - 1),
      PageDown: () => move(place + PAGE),
      PageUp: () => move(place - PAGE),
      Home: () => move(0),
      End: () => move(rows.length - 1),
      ArrowRight: () => (isOpen ? move(place + 1) : flip()),
      ArrowLeft: () => {
        if (isOpen) {
          flip();
        } else if (isItem) {
          goTo(places.get(row.above) ?? 0);
        }
      },
      Enter: flip,
      ' ': () => {
        if (isItem) {
          setAnchor(row.key);
          setChosen(toggled(selected, row.key));
        } else {
          flip();
        }
      },
      F2: () => {
        if (isItem) {
          actions.edit({ name: row.key, field: 'name' });
        }
      },
      Delete: () => {
        if (names.length) {
          removeAll(names);
          goTo(place + 1 < rows.length ? place + 1 : place - 1);
        }
      },
      Escape: () => setChosen(new Set())
    };
    const act =
      event.key === 'a' && (event.ctrlKey || event.metaKey)
        ? () =>
            setChosen(
              new Set(rows.filter(r => r.kind === 'snapshot').map(r => r.key))
            )
        : keys[event.key];
    if (act) {
      event.preventDefault();
      event.stopPropagation();
      act();
    }
  };

  return (
    <>
      <div
        className="jp-cr-List"
        ref={scroller}
        onFocus={() => {
          hasFocus.current = true;
        }}
        onBlur={event => {
          // Rows that are scrolled away lose the focus, but to nobody.
          hasFocus.current =
            event.relatedTarget === null && document.hasFocus()
              ? hasFocus.current
              : event.currentTarget.contains(event.relatedTarget);
        }}
        onMouseDown={() => {
          hasFocus.current = false;
        }}
      >
        <div
          role="tree"
          aria-label={trans.__('Snapshots')}
          aria-multiselectable
          className="jp-cr-Tree"
          style={{ height: virtualizer.getTotalSize() }}
          onKeyDown={onKeyDown}
        >
          {virtualizer.getVirtualItems().map(({ index, key, start }) => {
            const row = rows[index];
            const common = {
              key: String(key),
              ref: virtualizer.measureElement,
              'data-index': index,
              'data-key': row.key,
              role: 'treeitem',
              tabIndex: row.key === current ? 0 : -1,
              style: { transform: `translateY(${start}px)` }
            };
            if (row.kind === 'group') {
              return (
                <div
                  {...common}
                  className="jp-cr-Group"
                  aria-level={1}
                  aria-posinset={groups.indexOf(row) + 1}
                  aria-setsize={groups.length}
                  aria-expanded={!collapsed.has(row.key)}
                  aria-label={trans.__(
                    '%1, %2',
                    titleOf(row),
                    trans._n(
                      '%1 snapshot',
                      '%1 snapshots',
                      row.snapshots.length
                    )
                  )}
                  onClick={() => {
                    setActive(row.key);
                    setCollapsed(toggled(collapsed, row.key));
                  }}
                >
                  <Group
                    group={row}
                    isExpanded={!collapsed.has(row.key)}
                    toggle={() => setCollapsed(toggled(collapsed, row.key))}
                    trans={trans}
                  />
                </div>
              );
            }
            const { snapshot } = row;
            const parent = shownAbove(
              snapshot.name,
              model.parents,
              props.listed
            );
            const kernels = props.whereabouts.at(
              snapshot,
              isByLineage ? props.kernelId : null
            );
            const isSelected = selected.has(row.key);
            return (
              <div
                {...common}
                className={rowClass(snapshot, isSelected, marked === row.key)}
                data-snapshot={snapshot.name}
                aria-level={2 + (row.branch?.depth ?? 0)}
                aria-posinset={row.position}
                aria-setsize={row.size}
                aria-selected={isSelected}
                aria-expanded={expanded.has(row.key)}
                aria-label={describe(snapshot, parent, kernels, trans)}
                onClick={event => select(row, event)}
                onDoubleClick={() => actions.toggle(row.key)}
                onContextMenu={() => {
                  setActive(row.key);
                  if (!selected.has(row.key)) {
                    setChosen(new Set([row.key]));
                  }
                }}
              >
                <Item
                  snapshot={snapshot}
                  age={formatAge(snapshot.created)}
                  model={model}
                  actions={actions}
                  isExpanded={expanded.has(row.key)}
                  edited={edited?.name === row.key ? edited.field : null}
                  kernels={kernels}
                  parent={parent}
                  canCompareWithNow={props.actions.canCompareWithNow(snapshot)}
                  branch={row.branch}
                  canRestore={
                    model.canRestore && !model.activity(snapshot.kernel_id)
                  }
                  trans={trans}
                />
              </div>
            );
          })}
        </div>
      </div>
      {/* Below, lest rows move away under the mouse. */}
      {selected.size > 1 && (
        <div className="jp-cr-Selection" role="status">
          <span>{trans._n('%1 selected', '%1 selected', selected.size)}</span>
          {pair && (
            <button
              className="jp-cr-Link"
              title={trans.__('Show how one differs from the other')}
              onClick={() => props.actions.compare(...pair)}
            >
              {trans.__('Compare')}
            </button>
          )}
          <button
            className="jp-cr-Link"
            onClick={() => removeAll([...selected])}
          >
            {trans.__('Delete')}
          </button>
          <button className="jp-cr-Link" onClick={() => setChosen(new Set())}>
            {trans.__('Clear')}
          </button>
        </div>
      )}
    </>
  );
}

function titleOf(group: IGroup): string {
  return group.path ? baseName(group.path) : group.kernelName;
}

function Group(props: {
  group: IGroup;
  isExpanded: boolean;
  toggle: () => void;
  trans: TranslationBundle;
}): JSX.Element {
  const { group, isExpanded, toggle, trans } = props;
  const icon = group.path ? notebookIcon : consoleIcon;
  return (
    <>
      <Caret
        isExpanded={isExpanded}
        label={isExpanded ? trans.__('Collapse') : trans.__('Expand')}
        onClick={toggle}
      />
      <icon.react tag="span" className="jp-cr-Group-icon" />
      <span className="jp-cr-Group-title" title={group.path}>
        {titleOf(group)}
      </span>
      {group.isCurrent && (
        <span className="jp-cr-Badge">{trans.__('current')}</span>
      )}
      <span className="jp-cr-Count">{group.snapshots.length}</span>
    </>
  );
}

/** The two that are selected, if they are two, and can be compared. */
function pairOf(
  selected: ReadonlySet<string>,
  model: SnapshotModel
): [ISnapshot, ISnapshot] | null {
  const [one, other, ...more] = [...selected].map(name => model.get(name));
  return one && other && !more.length && [one, other].every(isComparable)
    ? [one, other]
    : null;
}

function toggled<T>(set: ReadonlySet<T>, value: T): ReadonlySet<T> {
  const other = new Set(set);
  if (!other.delete(value)) {
    other.add(value);
  }
  return other;
}

function without<T>(set: ReadonlySet<T>, value: T): ReadonlySet<T> {
  return new Set([...set].filter(other => other !== value));
}

function namesBetween(
  rows: readonly Row[],
  places: ReadonlyMap<string, number>,
  one: string,
  other: string
): string[] {
  const ends = [places.get(one) ?? 0, places.get(other) ?? 0];
  return rows
    .slice(Math.min(...ends), Math.max(...ends) + 1)
    .filter(row => row.kind === 'snapshot')
    .map(row => row.key);
}
