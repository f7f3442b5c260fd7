import { nullTranslator } from '@jupyterlab/translation';

import { describe as describeRow } from '../panel/item';
import { shownAbove } from '../panel/lineage';
import { snapshot } from './helpers';

const trans = nullTranslator.load('jupyter_cr');

describe('a row', () => {
  it('names what it grew from, or the next above that is listed', () => {
    const parents = new Map([
      ['late', 'hidden'],
      ['hidden', 'early'],
      ['early', '']
    ]);
    const above = shownAbove('late', parents, new Set(['late', 'early']));
    expect(describeRow(snapshot('late'), above, [], trans)).toContain(
      'after early'
    );
    expect(shownAbove('late', parents, new Set(['late']))).toBe('');
  });

  it('says of which lesson it is', () => {
    const one = snapshot('made', {
      automatic: 'for lessons',
      parent: 'regression',
      state: 'memory'
    });
    expect(describeRow(one, '', [], trans)).toContain('lesson “regression”');
  });
});
