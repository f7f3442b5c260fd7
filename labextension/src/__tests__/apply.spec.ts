import type * as nbformat from '@jupyterlab/nbformat';
import { NotebookModel } from '@jupyterlab/notebook';

import { applyDocument, isEdited, withEdits } from '../timeline/apply';

function code(
  id: string,
  source: string,
  printed?: string,
  count: number | null = null
): nbformat.ICell {
  const outputs: nbformat.IOutput[] =
    printed === undefined
      ? []
      : [{ output_type: 'stream', name: 'stdout', text: printed }];
  return {
    cell_type: 'code',
    id,
    source,
    metadata: {},
    outputs,
    execution_count: count
  };
}

function notebook(...cells: nbformat.ICell[]): nbformat.INotebookContent {
  return { cells, metadata: {}, nbformat: 4, nbformat_minor: 5 };
}

function modelOf(content: nbformat.INotebookContent): NotebookModel {
  const model = new NotebookModel();
  model.fromJSON(content);
  return model;
}

/** What people see of it. */
function seen(model: NotebookModel): unknown[] {
  const { cells } = model.toJSON() as nbformat.INotebookContent;
  return cells.map(({ id, cell_type, source, outputs, execution_count }) => [
    id,
    cell_type,
    Array.isArray(source) ? source.join('') : source,
    ((outputs ?? []) as nbformat.IStream[]).map(({ text }) => text),
    execution_count ?? null
  ]);
}

const A = code('a', 'x = 1', 'one', 1);
const B = code('b', 'x = 2');
const C = { cell_type: 'markdown', id: 'c', source: '# c', metadata: {} };

describe('applyDocument', () => {
  it.each([
    ['nothing', notebook(A, B, C), notebook(A, B, C)],
    ['text', notebook(A, B), notebook(A, code('b', 'y = 3'))],
    [
      'outputs that are new',
      notebook(A, B),
      notebook(A, code('b', 'x = 2', 'two', 2))
    ],
    ['outputs that are gone', notebook(A), notebook(code('a', 'x = 1'))],
    [
      'outputs that are others',
      notebook(A),
      notebook(code('a', 'x = 1', 'uno', 7))
    ],
    ['a cell that is new', notebook(A, C), notebook(A, B, C)],
    ['a cell that is gone', notebook(A, B, C), notebook(A, C)],
    ['the order', notebook(A, B, C), notebook(C, A, B)],
    ['the type', notebook(A, B), notebook(A, { ...C, id: 'b' })],
    ['all', notebook(A), notebook(C, B)],
    ['all but nothing', notebook(A, B, C), notebook(B)]
  ])('brings back %s', (_, now, then) => {
    const model = modelOf(now);
    applyDocument(model, then);
    expect(seen(model)).toEqual(seen(modelOf(then)));
    // The model that widgets show is the one that is shared.
    expect([...model.cells].map(cell => cell.id)).toEqual(
      then.cells.map(cell => cell.id)
    );
  });

  it('leaves alone what has not changed', () => {
    const model = modelOf(notebook(A, B, C));
    const before = [...model.cells];
    applyDocument(model, notebook(A, code('b', 'x = 2', 'two', 2), C));
    expect([...model.cells]).toEqual(before);
  });

  it('is one step for whoever edits', () => {
    const model = modelOf(notebook(A, B));
    model.sharedModel.clearUndoHistory();
    applyDocument(model, notebook(A, code('b', 'y = 3'), C));
    model.sharedModel.undo();
    expect(seen(model)).toEqual(seen(modelOf(notebook(A, B))));
  });
});

describe('isEdited', () => {
  it('is not what cells print', () => {
    expect(isEdited(notebook(A, B), notebook(code('a', 'x = 1'), B))).toBe(
      false
    );
  });

  it('is not the empty cell that is added behind the last', () => {
    expect(isEdited(notebook(A, code('z', '')), notebook(A))).toBe(false);
  });

  it.each([
    ['text', notebook(code('a', 'x = 3'))],
    ['another cell', notebook(A, B)],
    ['no cell', notebook()],
    ['its type', notebook({ ...A, cell_type: 'raw' })]
  ])('is %s', (_, now) => {
    expect(isEdited(now, notebook(A))).toBe(true);
  });
});

describe('withEdits', () => {
  it('has the text of now and the outputs of then', () => {
    const then = notebook(A, B);
    const now = notebook(code('a', 'x = 9', 'nine', 9), code('n', 'new'), C);
    expect(withEdits(then, now)).toEqual(
      notebook(code('a', 'x = 9', 'one', 1), code('n', 'new'), C)
    );
  });
});
