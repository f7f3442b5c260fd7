import React from 'react';

import type { IBranch } from './lineage';

/** How far columns are from each other, in pixels. */
const STEP = 12;

/** What is deeper is drawn in the last column: names need room, too. */
const LAST = 7;

/** How wide the lines beside a snapshot are, in pixels. */
export function widthOf(branch: IBranch | undefined): number {
  return branch ? columnOf(branch.depth) * STEP + STEP : 0;
}

/**
 * The lines that lead to a snapshot from what it grew from, and on to what grew from it. For
 * the eye alone: all others are told by the row's level and its words.
 */
export function Branch(props: {
  branch: IBranch;
  /** Whether a kernel is there now. */
  isHere: boolean;
}): JSX.Element {
  const { branch, isHere } = props;
  const { depth, from, rails, isGap, goesOn } = branch;
  const column = columnOf(depth);
  const origin = from === null ? null : columnOf(from);
  const dashed = isGap ? ' jp-cr-mod-gap' : '';
  return (
    <span
      className="jp-cr-Branch"
      aria-hidden
      style={{ width: widthOf(branch) }}
    >
      {[...new Set(rails.map(columnOf))].map(rail => (
        <Line key={rail} column={rail} kind="rail" />
      ))}
      {origin !== null && origin === column && (
        <Line column={column} kind={`above${dashed}`} />
      )}
      {origin !== null && origin < column && (
        <Line column={origin} kind={`bend${dashed}`} />
      )}
      {goesOn && <Line column={column} kind="below" />}
      <span
        className={`jp-cr-Branch-dot${isHere ? ' jp-cr-mod-here' : ''}`}
        style={{ left: column * STEP }}
      />
    </span>
  );
}

function Line(props: { column: number; kind: string }): JSX.Element {
  return (
    <span
      className={`jp-cr-Branch-line jp-cr-mod-${props.kind}`}
      style={{ left: props.column * STEP }}
    />
  );
}

function columnOf(depth: number): number {
  return Math.min(depth, LAST);
}
