import type * as nbformat from '@jupyterlab/nbformat';
import type { INotebookModel } from '@jupyterlab/notebook';
import { JSONExt, type PartialJSONObject } from '@lumino/coreutils';

/**
 * Have a notebook be what it was, through its shared model, so that all who work on it see
 * it. Cells that have not changed are left alone, and those of which only the outputs or the
 * text have, keep their place on the screen.
 */
export function applyDocument(
  model: INotebookModel,
  content: nbformat.INotebookContent
): void {
  const { sharedModel } = model;
  const wanted = content.cells;
  const before = [...sharedModel.cells];
  const isSame = (shared: SharedCell | undefined, cell: nbformat.ICell) =>
    shared?.id === cell.id && shared?.cell_type === cell.cell_type;
  let first = 0;
  while (first < wanted.length && isSame(before[first], wanted[first])) {
    first++;
  }
  let last = 0;
  while (
    last < Math.min(wanted.length, before.length) - first &&
    isSame(before[before.length - 1 - last], wanted[wanted.length - 1 - last])
  ) {
    last++;
  }
  const between = wanted.slice(first, wanted.length - last);
  if (between.length || first + last < before.length) {
    sharedModel.transact(() => {
      // There is no moment without a cell, in which JupyterLab would add one.
      sharedModel.insertCells(first, between as never);
      const from = first + between.length;
      sharedModel.deleteCellRange(from, before.length - last + between.length);
    });
  }
  // Not within that: the cells are made when it has ended.
  sharedModel.transact(() => {
    wanted.forEach((cell, at) => changeText(sharedModel.cells[at], cell));
    if (!isEqual(sharedModel.getMetadata(), content.metadata)) {
      sharedModel.setMetadata(content.metadata);
    }
  });
  wanted.forEach((cell, at) => changeOutputs(sharedModel.cells[at], cell));
}

type SharedCell = INotebookModel['sharedModel']['cells'][number];

type SharedCodeCell = Extract<SharedCell, { cell_type: 'code' }>;

function isCode(cell: SharedCell): cell is SharedCodeCell {
  return cell.cell_type === 'code';
}

function changeText(shared: SharedCell, wanted: nbformat.ICell): void {
  const before = shared.toJSON() as nbformat.ICell;
  if (sourceOf(before) !== sourceOf(wanted)) {
    shared.setSource(sourceOf(wanted));
  }
  if (!isEqual(before.metadata, wanted.metadata)) {
    shared.setMetadata(wanted.metadata as never);
  }
}

function changeOutputs(shared: SharedCell, wanted: nbformat.ICell): void {
  if (!isCode(shared)) {
    return;
  }
  const before = shared.toJSON();
  const outputs = (wanted.outputs ?? []) as nbformat.IOutput[];
  if (!isEqual(before.outputs, outputs)) {
    // One after the other: of both at once JupyterLab is told that something was added and
    // something removed, joins the text that was added with what there is, and removes that
    // (@jupyterlab/cells 4.6, `CodeCellModel.onOutputsChange`).
    shared.setOutputs([]);
    shared.setOutputs(outputs);
  }
  shared.execution_count =
    (wanted.execution_count as nbformat.ExecutionCount) ?? null;
}

/**
 * Whether somebody has edited a notebook: what differs is more than what cells have printed.
 */
export function isEdited(
  now: nbformat.INotebookContent,
  before: nbformat.INotebookContent
): boolean {
  const written = ({ cells }: nbformat.INotebookContent) =>
    // JupyterLab adds an empty one behind the last that is run.
    cells.filter(sourceOf).map(cell => ({
      id: cell.id ?? null,
      type: cell.cell_type,
      source: sourceOf(cell),
      tags: cell.metadata.tags ?? null
    }));
  return !isEqual(written(now), written(before));
}

/** A notebook as it was then, with the text that it has now. */
export function withEdits(
  then: nbformat.INotebookContent,
  now: nbformat.INotebookContent
): nbformat.INotebookContent {
  const before = new Map(then.cells.map(cell => [cell.id, cell]));
  const cells = now.cells.map(cell => {
    const same = before.get(cell.id);
    return same?.cell_type === 'code' && cell.cell_type === 'code'
      ? {
          ...cell,
          outputs: same.outputs,
          execution_count: same.execution_count
        }
      : cell;
  });
  return { ...now, cells };
}

function sourceOf({ source }: nbformat.ICell): string {
  return Array.isArray(source) ? source.join('') : source;
}

function isEqual(one: unknown, other: unknown): boolean {
  return JSONExt.deepEqual(
    (one ?? null) as PartialJSONObject,
    (other ?? null) as PartialJSONObject
  );
}
